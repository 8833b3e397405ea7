"""Template strings, image placement and supervision of segments."""

from __future__ import annotations

import pytest

from data_utils.conversation import TEMPLATES, Segment, dialogue_segments, query_segments
from data_utils.schema import Turn

V1, TINY = TEMPLATES["v1"], TEMPLATES["tiny"]


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(("human", "gpt")[index % 2], text) for index, text in enumerate(texts))


def joined(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def test_v1_text_is_the_published_one():
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    segments = dialogue_segments(V1, turns("<image>\nWhat?", "A cat.", "Sure?", "Yes."), 1)
    assert joined(segments) == (
        f"{system} USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>"
    )


def test_an_empty_system_leaves_nothing_in_front():
    assert joined(query_segments(TINY, turns("What?"), 0)) == "USER: What? ASSISTANT:"


def test_answers_and_their_stops_are_supervised_and_nothing_else():
    segments = dialogue_segments(TINY, turns("<image> What?", "A cat.", "Sure?", "Yes."), 1)
    assert [segment for segment in segments if segment.supervised] == [
        Segment("text", " A cat.", True),
        Segment("stop", "</s>", True),
        Segment("text", " Yes.", True),
        Segment("stop", "</s>", True),
    ]


@pytest.mark.parametrize(
    ("text", "n_images", "expected"),
    [
        ("<image>\nWhat?", 1, "USER: <image>\nWhat? ASSISTANT:"),
        ("What?\n<image>", 1, "USER: <image>\nWhat? ASSISTANT:"),
        ("Describe <image> briefly. ", 1, "USER: <image>\nDescribe  briefly. ASSISTANT:"),
        ("What?", 1, "USER: <image>\nWhat? ASSISTANT:"),
        ("<image>", 1, "USER: <image> ASSISTANT:"),
        ("", 1, "USER: <image> ASSISTANT:"),
        ("<image> or <image>?", 2, "USER: <image>\n<image>\nor ? ASSISTANT:"),
        ("<image><image>", 2, "USER: <image>\n<image> ASSISTANT:"),
        (" spaces kept ", 0, "USER:  spaces kept  ASSISTANT:"),
    ],
)
def test_images_go_to_the_front_of_their_message(text, n_images, expected):
    segments = query_segments(TINY, turns(text), n_images)
    assert joined(segments) == expected
    assert [segment.kind for segment in segments].count("image") == n_images


def test_an_image_of_a_later_message_stays_there():
    segments = query_segments(TINY, turns("One.", "Yes.", "And <image>?"), 1)
    assert joined(segments) == "USER: One. ASSISTANT: Yes.</s>USER: <image>\nAnd ? ASSISTANT:"


def test_an_image_without_marker_goes_to_the_first_message():
    segments = query_segments(TINY, turns("One.", "Yes.", "And?"), 1)
    assert joined(segments) == "USER: <image>\nOne. ASSISTANT: Yes.</s>USER: And? ASSISTANT:"


def test_a_marker_in_an_answer_is_plain_text():
    segments = dialogue_segments(TINY, turns("What?", "An <image>."), 0)
    assert [segment.kind for segment in segments] == ["text", "text", "stop"]


@pytest.mark.parametrize(
    ("build", "messages", "n_images"),
    [
        (dialogue_segments, turns("What?"), 0),
        (query_segments, turns("What?", "A cat."), 0),
        (query_segments, turns("<image>"), 0),
        (query_segments, turns("What?"), 2),
        (query_segments, turns("<image><image>"), 1),
        (query_segments, (Turn("gpt", "A cat."),), 0),
        (query_segments, (), 0),
    ],
)
def test_turns_that_do_not_fit_are_refused(build, messages, n_images):
    with pytest.raises(ValueError):
        build(TINY, messages, n_images)
