"""Who is looking, where the lab's secrets switch Streamlit's login on. Without them everybody may do everything."""

from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import Error, StreamlitSecretNotFoundError

from maml_core.store.people import Person


def signed_in() -> Person | None:
    """Who has logged in; None where no login is set up. Where one is and nobody has, the page ends with the way in.

    A person is known by their address of email, or where the provider gives none, or none that it has checked, by the
    name that it has for them: one that cannot be chosen to be somebody else's.
    """
    _check_secrets()
    claims = st.user.to_dict()
    if "is_logged_in" not in claims:
        return None
    if not claims["is_logged_in"]:
        _offer_login()
        st.stop()
    email = str(claims.get("email") or "").strip().casefold()
    is_checked = str(claims.get("email_verified", True)).casefold() != "false"
    name = email if email and is_checked else f"{claims.get('sub')} at {claims.get('iss')}"
    person = Person(name, name in _admins())
    with st.sidebar.container(horizontal=True, vertical_alignment="center", key="person"):
        st.caption(_as_code(name) + (" · admin" if person.is_admin else ""), width="stretch")
        if st.button("Log out", type="tertiary", icon=":material/logout:"):
            st.logout()
    return person


def _check_secrets() -> None:
    """End the page where secrets are there and cannot be read: a lab that asks for a login is not open by a slip."""
    if any(Path(name).exists() for name in st.get_option("secrets.files")):
        try:
            st.secrets.to_dict()
        except StreamlitSecretNotFoundError as error:
            st.error(f"The lab's secrets cannot be read, so that nobody can log in: {error}", icon=":material/lock:")
            st.stop()


def _as_code(name: str) -> str:
    return f"`{name.replace('`', '')}`"


def _offer_login() -> None:
    """A line, and a button for each provider."""
    st.markdown("##### Find a starting point from which a few steps are enough")
    st.markdown("This lab is shared: log in, so that what you train is yours to stop and to delete.")
    auth: dict[str, Any] = dict(st.secrets["auth"])
    providers = [None] if "client_id" in auth else [name for name, part in auth.items() if hasattr(part, "keys")]
    if not providers:
        st.error("auth in the secrets names no provider: add client_id, client_secret and server_metadata_url to it.")
    for provider in providers:
        label = f"Log in with {provider}" if provider else "Log in"
        if st.button(label, type="primary", icon=":material/login:"):
            try:
                st.login(provider)
            except Error as error:
                st.error(f"The login is not set up rightly: {error}")


def _admins() -> set[str]:
    """Who may change everything: `admins` in the secrets' section `lab`."""
    found: Any = st.secrets.get("lab", {}).get("admins", [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        st.error(f"lab.admins = {found!r} in the secrets is not allowed: it must be a list of addresses.")
        st.stop()
    return {name.strip().casefold() for name in found}
