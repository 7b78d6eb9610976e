"""A DataLoader whose workers (fork or spawn, the argument) run both doors. Prints "same"."""

import sys

import torch
from small_scene import HEIGHT, LABELS, WIDTH, scene

import fastseg.ops


class Refined(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        field, unary, features = scene(seed)
        probs = torch.from_numpy(field.run(unary, 3))
        tensors = [torch.from_numpy(f).view(1, -1, HEIGHT, WIDTH) for f in features]
        batch = torch.from_numpy(unary).view(1, LABELS, HEIGHT, WIDTH)
        by_torch = fastseg.ops.mean_field(batch, tensors, [torch.tensor(2.0)] * 2, iterations=3)
        return probs, by_torch.view_as(probs)


if __name__ == "__main__":
    data = Refined()
    expected = [data[seed] for seed in range(len(data))]  # so the parent's threads are at work
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context=sys.argv[1]
    )
    for (probs, by_torch), (probs_here, by_torch_here) in zip(loader, expected, strict=True):
        assert torch.equal(probs, probs_here) and torch.equal(by_torch, by_torch_here)
        assert torch.equal(probs, by_torch)
    print("same")
