"""A lesson on screen: its text, the question before the reveal, and the answer after the run."""

import streamlit as st

from maml_core.errors import ConfigError
from maml_core.glossary import linked
from maml_core.lessons import LESSONS, Lesson, get_lesson
from maml_core.store.run import Run
from pages.components.config_form import load_config


def open_lesson(name: str | None) -> None:
    """Begin a lesson, or go back to the whole lab."""
    for part in ("run", "against", "lesson"):
        st.query_params.pop(part, None)
    st.session_state.pop("answer", None)
    if name:
        st.query_params["lesson"] = name
    st.session_state["lesson"] = name
    if name:
        lesson = LESSONS[name]
        load_config(lesson.config, lesson.preset)


def current_lesson() -> Lesson | None:
    """The lesson that the URL names; a name that is none gets a sentence."""
    name = st.query_params.get("lesson")
    if name is None:
        return None
    try:
        lesson = get_lesson(name)
    except ConfigError as error:
        del st.query_params["lesson"]
        st.warning(str(error), icon=":material/link_off:")
        return None
    if st.session_state.get("lesson") != name:  # opened by a link
        run = st.query_params.get("run")
        open_lesson(name)
        if run:
            st.query_params["run"] = run
    return lesson


def lesson_menu() -> None:
    """The way to each lesson."""
    with st.popover("Lessons", icon=":material/school:"):
        for number, (name, lesson) in enumerate(LESSONS.items(), start=1):
            st.button(
                f"{number}. {lesson.title}", key=f"lesson-{name}", width="stretch", on_click=open_lesson, args=(name,)
            )


def show_lesson(lesson: Lesson, run: Run | None) -> bool:
    """The lesson's text and its question; the explanation once a run is done. Returns whether an answer is given."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"##### :material/school: {lesson.title}", width="stretch")
        st.button("The whole lab", icon=":material/close:", on_click=open_lesson, args=(None,))
    st.markdown(linked(lesson.text))
    answer = st.radio(
        lesson.question, lesson.answers, index=None, key="answer", horizontal=True, persist_state="session"
    )
    if answer is None:
        st.caption("Choose an answer, then press **Train**.")
        return False
    if run and run.iteration and not run.is_active:
        is_right = lesson.answers.index(answer) == lesson.right
        verdict = "As you said." if is_right else f"It is: {lesson.answers[lesson.right]}."
        st.success(f"**{verdict}** {linked(lesson.explanation)}", icon=":material/lightbulb:")
    return True
