"""Positions of text and of pictures, by hand; and tables of pictures that take different numbers of positions."""

from __future__ import annotations

import torch

from models.families.base import Place
from models.packed_features import grids_of, pack
from models.positions import picture_positions, text_positions

# A picture of 2 × 3 patches: all of one moment, rows, columns. The text behind it moves on by the longer side.
PICTURE = Place(torch.tensor([[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2] * 2]), 3)
SMALL = Place(torch.tensor([[0], [0], [0]]), 1)


def test_text_is_counted_from_the_first_real_token_on():
    mask = torch.tensor([[False, True, True, True], [True, True, False, False]])
    assert text_positions(mask, 4, mask.device).tolist() == [[0, 0, 1, 2], [0, 1, 2, 3]]
    assert text_positions(None, 3, mask.device).tolist() == [[0, 1, 2]]


def test_pictures_have_three_dimensions_and_the_text_behind_them_moves_on():
    places = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0, 1]]).bool()
    mask = torch.tensor([[1] * 9, [0, 0, 0, 0, 1, 1, 1, 1, 1]]).bool()
    found, following = picture_positions(places, mask, [PICTURE, SMALL, SMALL])
    rows = found.transpose(0, 1)
    assert rows[0].tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 5],
        [0, 1, 1, 1, 2, 2, 2, 4, 5],
        [0, 1, 2, 3, 1, 2, 3, 4, 5],
    ]
    assert rows[1][:, 4:].tolist() == [[0, 1, 2, 3, 4]] * 3
    # Not the number of tokens: 9 in the first row.
    assert following.tolist() == [[6], [5]]


def test_padding_in_front_or_behind_moves_no_picture():
    row = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0]]).bool()
    plain, following = picture_positions(row, None, [PICTURE])
    padding = torch.zeros(1, 2, dtype=torch.bool)
    for left in (True, False):
        parts = (padding, row) if left else (row, padding)
        real = (padding, torch.ones_like(row)) if left else (torch.ones_like(row), padding)
        found, behind = picture_positions(torch.cat(parts, 1), torch.cat(real, 1), [PICTURE])
        assert torch.equal(found[..., 2:] if left else found[..., :8], plain)
        assert int(behind) == int(following) + (0 if left else 2)  # columns behind are counted on


def test_a_table_of_pictures_knows_where_each_begins():
    features = [torch.full((length, 2), float(length)) for length in (3, 1, 2)]
    packed = pack(features, [(1, 3), (1, 1), (1, 2)])
    assert packed.table.shape == (6, 2) and packed.lengths == (3, 1, 2)
    assert all(torch.equal(one, other) for one, other in zip(packed.split(), features, strict=True))
    assert grids_of(torch.tensor([[4, 2], [6, 3]]), 2) == [(4, 2), (6, 3)]
    assert grids_of(None, 2) == [(), ()]
