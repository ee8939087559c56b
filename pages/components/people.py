"""Who is looking, where the lab's secrets switch Streamlit's login on. Without them everybody may do everything."""

from pathlib import Path
from typing import Any, NoReturn

import streamlit as st
from streamlit.errors import Error, StreamlitSecretNotFoundError

from maml_core.store.people import Person


def signed_in() -> Person | None:
    """Who has logged in; None where no login is set up. Where one is and nobody has, the page ends with the way in.

    A person is known by an address of email that their provider has checked, else by the name that it has for them,
    which nobody chooses. `trust_email` in the secrets' section `lab` takes addresses without a word of the provider's.
    """
    claims = st.user.to_dict()
    lab = _lab_secrets()
    if lab is None and "is_logged_in" not in claims:
        return None
    if not claims.get("is_logged_in"):
        _offer_login()
        st.stop()
    lab = lab or {}
    email = str(claims.get("email") or "").strip().casefold()
    is_checked = str(claims.get("email_verified")).casefold() == "true" or lab.get("trust_email") is True
    admins = [name.strip() for name in lab.get("admins", [])]
    if email and is_checked:
        person = Person(email, email in [name.casefold() for name in admins])
    else:
        name = f"{claims.get('sub')} at {claims.get('iss')}"
        person = Person(name, name in admins)
    with st.sidebar.container(horizontal=True, vertical_alignment="center", key="person"):
        st.caption(_as_code(person.name) + (" · admin" if person.is_admin else ""), width="stretch")
        if st.button("Log out", type="tertiary", icon=":material/logout:"):
            st.logout()
    return person


def _lab_secrets() -> dict[str, Any] | None:
    """The secrets' section `lab`; None where the secrets ask for no login.

    The page ends where they cannot be read or are wrong: a lab that asks for a login is not open by a slip.
    """
    if not any(Path(name).exists() for name in st.get_option("secrets.files")):
        return None
    try:
        secrets = st.secrets.to_dict()
    except (StreamlitSecretNotFoundError, OSError, ValueError) as error:
        _refuse(f"The lab's secrets cannot be read, so that nobody can log in: {error}")
    if not secrets.keys() & {"auth", "lab"}:
        return None
    auth, lab = secrets.get("auth"), secrets.get("lab", {})
    if not (isinstance(auth, dict) and auth):
        _refuse("auth in the secrets is missing or empty, so that nobody can log in: fill it, or remove lab, too.")
    admins = lab.get("admins", []) if isinstance(lab, dict) else None
    if not isinstance(admins, list) or not all(isinstance(name, str) for name in admins):
        _refuse("lab in the secrets is not allowed: it must be a section with admins, a list of addresses.")
    return dict(lab)


def _refuse(sentence: str) -> NoReturn:
    st.error(sentence, icon=":material/lock:")
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
