"""Phrases whose second word decides, adjectives that are things elsewhere, and CHAIR by hand on such captions."""

from __future__ import annotations

import pytest

from llava_rlhf.evaluation.benchmarks.chair import Chair
from llava_rlhf.fact_rewards.object_words import OWN_PHRASES, PUBLISHED_PHRASES, ObjectWords
from tests.llava_rlhf.evaluation.test_chair import write_coco

OWN = ObjectWords()


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("A baseball player in a baseball uniform stands on a baseball field.", ["person"]),
        ("baseball caps, a baseball game; a baseball diamond", []),
        (
            "a baseball bat, a baseball glove, baseball mitts and a baseball",
            ["baseball bat", "baseball glove", "baseball glove", "sports ball"],
        ),
        ("a basketball court, a football jersey, a ball game", []),
        ("He holds a football. They play football in a game of basketball.", ["sports ball"]),
        ("a baseball thrown by a boy, and basketballs", ["sports ball", "person", "sports ball"]),
        ("She drops the baseball. Players run.", ["sports ball", "person"]),  # no phrase across a full stop
        ("a tennis match, tennis players and a tennis ball", ["person", "sports ball"]),
        ("A passenger train stands at the train station; a passenger waits", ["train", "person"]),
        ("an adult elephant, a baby zebra and a baby polar bear", ["elephant", "zebra", "bear"]),
        ("adult and baby elephants; a baby, an adult", ["elephant", "person", "person"]),
        ("a baby goat in a baby carriage; a baby bed; a baby's bed", ["bed", "person", "bed"]),
        ("a hot dog, hotdogs, a corn dog, a bulldog", ["hot dog", "hot dog"]),
        ("a pit bull, a sheep dog and a bull", ["dog", "dog", "cow"]),
        ("teddy bears, a toy bear, a gummy bear", ["teddy bear", "teddy bear"]),
        ("toilet paper beside a toilet; a toilet seat; a toilet bowl", ["toilet", "toilet", "toilet"]),
        ("an orange shirt, an orange and white cat, a black and orange bird", ["cat", "bird"]),
        ("The wall is orange. An orange on a plate, orange slices, oranges", ["orange"] * 3),
        ("a glass of orange juice; an apple, an orange, a pear", ["apple", "orange"]),
        ("a mouse pad, a mouse, Mickey Mouse", ["mouse"]),
        ("a bus stop, a car park, a boat house, a dog house, a bird house, a phone booth", []),
        ("a parking meter in the bed room; a bed", ["parking meter", "bed"]),
        ("a flower bed, a bed of lettuce, the bed of a truck, a pickup truck bed", ["truck", "truck"]),
        ("a bowl cut, a bowl, the Super Bowl", ["bowl"]),
        ("a jet ski, a ski slope, a ski lift; a skier on skis", ["person", "skis"]),
        ("oven mitts on the oven, a catcher's mitt", ["oven", "baseball glove"]),
        ("a DVD player, a man-made lake, the men's restroom, 5 o'clock", []),
        ("carrot cake, pancakes, a pan cake, a cake", ["cake", "cake"]),
        ("a remote area; a remote; a remote control car", ["remote", "car"]),
        ("an apple laptop, apple juice, an apple tree, an apple", ["laptop", "apple"]),
        ("a zebra crossing, a cat food bowl, a dog bowl", ["bowl", "bowl"]),
    ],
)
def test_the_second_word_decides(text, objects):
    assert OWN.mentions(text) == objects


def test_chair_by_hand_on_phrases(tmp_path):
    """A dog and a person are on image 2; nothing but a hot dog on image 3."""
    chair = Chair(write_coco(tmp_path), None, "Describe.", 0, 0)
    texts = [
        "A passenger train at the train station beside a cat.",  # train* cat: 1 of 2
        "A baseball player in a baseball cap on a baseball field with a dog.",  # person dog: 0 of 2
        "A toilet paper roll, an orange wall and two men.",  # person*: 1 of 1
    ]
    answers = [{"id": item.id, "answer": text} for item, text in zip(chair.items(), texts, strict=True)]
    scores = chair.score(answers, False)
    assert [item.values["chair_i"] for item in scores.items] == [(1, 2), (0, 2), (1, 1)]
    assert set(scores.conditions) == {"files", "synonyms", "phrases", "question"}


def test_a_given_list_is_read_by_the_published_phrases_alone(tmp_path):
    (tmp_path / "synonyms.txt").write_text(
        "person, baby, adult, player, passenger\ntrain\nelephant\ntie, bow tie\ntoilet\ncup\nsports ball, ball\norange\n"
    )
    words = ObjectWords(tmp_path / "synonyms.txt")
    assert words.files[1] == PUBLISHED_PHRASES and OWN.files[1] == OWN_PHRASES
    text = "a baby elephant, passenger trains, a train track, a toilet seat, a baby cub, a bow tie"
    assert words.mentions(text) == ["elephant", "train", "toilet", "tie"]
    # What the published script does not know, it counts.
    text = "a ball player, a cup holder, an orange shirt, a train station"
    assert words.mentions(text) == ["sports ball", "person", "cup", "orange", "train"]


def test_what_a_list_says_itself_goes_before_the_phrases(tmp_path):
    (tmp_path / "synonyms.txt").write_text("person, baby elephant\ntrain, train track\nelephant\n")
    assert ObjectWords(tmp_path / "synonyms.txt").mentions("a baby elephant on train tracks") == [
        "person",
        "train",
    ]


def test_every_phrase_names_an_object_or_none():
    for line in OWN_PHRASES.read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, equals, name = line.partition("=")
            assert equals and pattern.count("(") == pattern.count(")"), line
            assert name.strip() in {"", "*", *OWN.names}, line
