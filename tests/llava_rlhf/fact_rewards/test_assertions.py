"""Awkward sentences: which things a text asserts, denies or leaves open, and where it names them."""

from __future__ import annotations

import pytest

from data_utils.shapes_world import NAMES
from llava_rlhf.fact_rewards.assertions import with_stances
from llava_rlhf.fact_rewards.object_words import SHAPES_WORDS, ObjectWords

OWN = ObjectWords()
SHAPES = ObjectWords(SHAPES_WORDS)
SIGNS = {"asserted": "+", "denied": "-", "open": "?"}


def said(text: str, words: ObjectWords = OWN) -> str:
    """Each thing with its stance: "dog+ hot_dog- cat?"."""
    found = with_stances(text, words.found(text))
    return " ".join(one.name.replace(" ", "_") + SIGNS[one.stance] for one in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A dog sits on a couch.", "dog+ couch+"),
        ("There is no dog.", "dog-"),
        ("There isn't a dog on the chair.", "dog- chair+"),
        ("There isn’t a dog in the picture, but a cat is there.", "dog- cat+"),
        ("No, there is a dog.", "dog+"),
        ("No dogs, cats, or birds are visible.", "dog- cat- bird-"),
        ("There is no dog, a cat sleeps on the bed.", "dog- cat+ bed+"),
        ("There isn't a dog, a cat, or a bird.", "dog- cat- bird-"),
        ("Not only a dog but also a cat.", "dog+ cat+"),
        ("Not a single dog, only a cat.", "dog- cat+"),
        ("A man without a hat or tie", "person+ tie-"),
        ("neither a dog nor a cat", "dog- cat-"),
        ("neither the dog nor the cat is visible.", "dog- cat-"),
        ("There are no animals except a dog.", "dog+"),
        ("There is nothing but a dog.", "dog+"),
        ("no animals other than a dog", "dog+"),
        ("It is a cat, not a dog.", "cat+ dog-"),
        ("It is not a dog but a cat.", "dog- cat+"),
        ("The dog is not on the couch.", "dog+ couch+"),
        ("The man is not wearing a tie.", "person+ tie-"),
        ("The woman doesn't have an umbrella or a handbag with her.", "person+ umbrella- handbag-"),
        ("Is there a dog?", "dog?"),
        ("Is there a dog? Yes, there is a dog.", "dog? dog+"),
        ("I can't tell whether there is a dog.", "dog?"),
        ("I don't see any dogs near a car.", "dog- car+"),
        ("I can't say.", ""),
        ("No doubt a dog", "dog+"),
        ("Without a doubt, this is a dog.", "dog+"),
        ("There aren't many people.", "person+"),
        ("not all dogs", "dog+"),
        ("The dog isn't visible.", "dog-"),
        ("A dog and a cat are not visible.", "dog- cat-"),
        ("No bus can be seen", "bus-"),
        ("A dog cannot be seen here, only a cat.", "dog- cat+"),
        ("A car-free street with a bicycle", "car- bicycle+"),
        ("an absence of cars and a bench", "car- bench+"),
        ("A cat instead of a dog", "cat+ dog-"),
        ("A hot dog, no dog.", "hot_dog+ dog-"),
        ("The baby elephant stands next to its mother.", "elephant+"),
        ("There is no hot dog on the plate.", "hot_dog-"),
        ("If you look closely, there is a bird.", "bird+"),
        ("No one is holding an umbrella.", "umbrella-"),
        ("no sign of a dog", "dog-"),
        ("There are people, but no cars or trucks; a bus is coming.", "person+ car- truck- bus+"),
        ("The street is devoid of cars.", "car-"),
        ("It is unclear if the animal is a dog.", "dog?"),
        ("There might be a dog or a cat.", "dog+ cat+"),
        ("There are two dogs and no cats and a horse.", "dog+ cat- horse+"),
        ("Dogs aren't allowed.", "dog+"),
        ("e.g. no dog, though a horse is near.", "dog- horse+"),
        ("Never a dog. A cat!", "dog- cat+"),
        ("“No dogs”, says the stop sign.", "dog- stop_sign+"),
        ("There is no dog and the cat sleeps on a chair.", "dog- cat+ chair+"),
        ("The image does not show a train, a bus or a car.", "train- bus- car-"),
        ("The image does not contain any people. It shows a bench.", "person- bench+"),
        ("The bench is empty, with no person sitting on it.", "bench+ person-"),
        ("The table has no cups but it has a bowl.", "dining_table+ cup- bowl+"),
        ("a room without people, with a bed", "person- bed+"),
        ("A dog, which isn't a wolf, and a ball.", "dog+ sports_ball+"),
        ("A dog that isn't wearing a tie and a cat", "dog+ tie- cat+"),
        ("There's a clock on the wall; it doesn't show a number.", "clock+"),
        ("The cat's not there.", "cat-"),
    ],
)
def test_awkward_sentences(text, says):
    assert said(text) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "the image shows a red-circle, a blue-square and a green-cross.",
            "red-circle+ blue-square+ green-cross+",
        ),
        ("Yes, there is a red-circle.", "red-circle+"),
        ("No, there is no red-circle.", "red-circle-"),
        ("B. blue-square.", "blue-square+"),
        ("is there a blue-square in the image?", "blue-square?"),
        ("two red circles and Blue Crosses", "red-circle+ blue-cross+"),
        ("a red circle-saw, a circle, a dark-red square", "red-circle+ red-square+"),
        ("nothing", ""),
    ],
)
def test_sentences_of_the_tiny_world(text, says):
    assert said(text, SHAPES) == says


def test_the_tiny_world_s_list_names_its_objects():
    assert SHAPES.names == set(NAMES)


@pytest.mark.parametrize(
    "text", ["İ: a hot  dog’s plate", "ＩＩ 犬 a hot dog", "😀😀\n a Hot Dog!", "a hot dog, no hot dog"]
)
def test_spans_cut_the_thing_out_of_the_text(text):
    found = with_stances(text, OWN.found(text))
    assert found and all(text[one.start : one.end].lower().split() == ["hot", "dog"] for one in found)


def test_more_words_by_file(tmp_path):
    path = tmp_path / "more.txt"
    path.write_text("dog, doggo\nsnow leopard, irbis\nsofa cushion\n")
    words = ObjectWords(None, path)
    assert said("A doggo and an irbis beside sofa cushions, no snow leopards.", words) == (
        "dog+ snow_leopard+ sofa_cushion+ snow_leopard-"
    )
    path.write_text("doggo, dog\n")
    with pytest.raises(ValueError, match=r"--fact_synonyms .*more.txt, line 1: 'dog' stands for 'dog' too"):
        ObjectWords(None, path)
    path.write_text("犬\n")
    with pytest.raises(ValueError, match="line 1: '犬' has no letter from a to z"):
        ObjectWords(None, path)
