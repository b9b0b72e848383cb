"""Memory in large pages is memory like any other."""

import gc
import weakref

import torch

from trimtab.engine.llama.pages import PIECE, Pages


def test_tensors_in_one_piece_do_not_touch_each_other() -> None:
    pages = Pages()
    sizes = [
        ((3, 5), torch.float32),
        ((7,), torch.bfloat16),
        ((0, 4), torch.float32),
        ((2, 2), torch.int64),
    ]
    tensors = [pages.empty(size, dtype) for size, dtype in sizes]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number + 1)
    for number, (tensor, (size, dtype)) in enumerate(zip(tensors, sizes, strict=True)):
        assert (tuple(tensor.shape), tensor.dtype) == (size, dtype)
        assert (tensor == number + 1).all()
        assert tensor.data_ptr() % 64 == 0


def test_what_is_larger_than_a_piece_has_one_of_its_own() -> None:
    pages = Pages()
    large = pages.empty((PIECE + 1,), torch.uint8)
    large[-1] = 3
    assert pages.empty((4,), torch.uint8).data_ptr() % 64 == 0
    assert int(large.sum(dtype=torch.int64)) == 3


def test_a_copy_is_contiguous_and_equal() -> None:
    turned = torch.arange(12.0).view(3, 4).T
    copied = Pages().copy(turned)
    assert torch.equal(copied, turned)
    assert copied.is_contiguous()


def test_a_piece_goes_with_its_last_tensor() -> None:
    pages = Pages()
    tensor = pages.empty((4,), torch.float32)
    piece = weakref.ref(pages._piece)  # type: ignore[arg-type]
    del pages
    gc.collect()
    tensor.fill_(1)
    assert piece() is not None
    del tensor
    gc.collect()
    assert piece() is None
