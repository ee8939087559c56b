"""You against the network: an image to be named first, and then what the network took it for."""

import streamlit as st

from maml_core.figures import Quiz


def quiz_view(quiz: Quiz, key: str) -> None:
    """The classes, one image after the other, and in the end the verdict; answers are kept as long as `key` stays."""
    if st.session_state.get("quiz") != key:
        st.session_state["quiz"], st.session_state["answers"] = key, []
    answers: list[int] = st.session_state["answers"]

    def answer(question: int, number: int) -> None:
        given: list[int] = st.session_state["answers"]
        if len(given) == question:  # a second click may come before the first is answered
            given.append(number)

    if len(answers) < len(quiz.questions):
        st.markdown(f"##### {len(answers) + 1} of {len(quiz.questions)}: which of them is this?")
        st.image(quiz.questions[len(answers)].picture, width=112)
    st.caption("The classes, an image of each:")
    with st.container(horizontal=True, gap="small"):
        for number, picture in enumerate(quiz.classes):
            with st.container(width=112):
                st.image(picture, width=96)
                st.button(
                    f"Class {number + 1}",
                    key=f"answer-{number}",
                    disabled=len(answers) == len(quiz.questions),
                    on_click=answer,
                    args=(len(answers), number),
                )
    if answers:
        last = quiz.questions[len(answers) - 1]
        mine = "right" if answers[-1] == last.right else f"wrong, it is class {last.right + 1}"
        other = "is right" if last.network == last.right else f"takes it for class {last.network + 1}"
        st.markdown(f"You are {mine}; the network {other}. **{quiz.verdict(answers)}**")
        st.button("Again, from the start", icon=":material/replay:", on_click=answers.clear)
