"""Runs with a second player: the generators, their optimiser, their turns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import ebm_fast as ef
from ebm_fast.objectives.players import Generator, Player
from ebm_fast.training import Alternating

from .task import Task


def alternating(
    task: Task, objective: Any, parameters: Iterable[nn.Parameter], *, share: float = 1.0,
    betas: tuple[float, float] | None = None, **turns: int,
) -> Alternating:  # fmt: skip
    """The objective with an optimiser for its second player, at a share of the learning rate and by other betas if any."""
    o = task.config.optimizer
    return Alternating(objective, torch.optim.Adam(parameters, share * o.learning_rate, betas or (o.beta1, o.beta2)), **turns)


def fce(task: Task) -> Alternating:
    """Flow contrastive estimation; the flow, helped by likelihood of its own, moves in every other iteration."""
    if not task.on_plane:
        raise ValueError(
            f"objective: fce needs a flow of the shape of the data, and there is one on the plane alone, got data "
            f"{task.config.data}; ace takes a generator of images, and ef.FlowContrastive a flow of your own"
        )
    objective = ef.FlowContrastive(task.energy, _flow(task), likelihood_weight=1.0, log_z=task.log_z(), **task.counter)
    return alternating(task, objective, objective.generator_parameters(), every=2)


def ace(task: Task) -> Alternating:
    """Adversarial contrastive estimation: a noisy network beside the static noise."""
    objective = ef.AdversarialContrastive(
        task.energy, _generator(task, learn_std=True), task.noise(), base_weight=0.5, entropy_weight=0.1, log_z=task.log_z(),
        num_noise=task.config.loss.num_noise, **task.counter,
    )  # fmt: skip
    return alternating(task, objective, objective.generator_parameters())


# Of `Variational` on the plane: shares of the learning rate, since where both are as fast the game oscillates; Adam's betas.
ENERGY_RATE, FLOW_RATE, FLOW_BETAS = 0.5, 5.0, (0.5, 0.9)


class Variational(Task):
    """Maximum likelihood against samples; on the plane of a flow, which learns ten times as fast as the energy.

    The data of images get the noise of the generator, which would tell them apart from its samples, and its entropy a smaller
    weight: the entropy of 64 and more numbers would outweigh the energy.
    """

    player: Player

    def objective(self) -> Alternating:
        if self.on_plane:
            generator, weight = _flow(self), 1.0
        else:
            generator, weight = _generator(self), 0.1
            self.blur(self.sigma)
        objective = ef.VariationalMLE(
            self.energy, generator, energy_l2=self.energy_l2, gradient_penalty=self.config.loss.gradient_penalty,
            entropy_weight=weight, **self.counter,
        )  # fmt: skip
        self.player = objective.generator
        own: dict[str, Any] = {"share": FLOW_RATE, "betas": FLOW_BETAS} if self.on_plane else {}
        return alternating(self, objective, objective.generator_parameters(), **own)

    def groups(self, objective: Any) -> Any:
        rate = (ENERGY_RATE if self.on_plane else 1.0) * self.config.optimizer.learning_rate
        return [{"params": objective.parameters(), "lr": rate}]

    @torch.no_grad()
    def draw(self) -> Tensor:  # (n, *event)
        """Of the generator: chains from noise would begin where it has never been and nobody has told the energy."""
        count = self.config.sampling.num_samples
        assert count is not None
        return self.player.draw(count, seed=self.config.seed, step=self.config.iterations + 1).x


def _flow(task: Task) -> Any:
    """Four affine couplings: of the flows at hand the one that takes the least time."""
    try:
        from zuko.flows import RealNVP
    except ImportError:
        raise ModuleNotFoundError(
            f"objective: {task.config.objective} needs a flow: pip install 'ebm_fast[flows]'"
        ) from None
    return RealNVP(features=2, transforms=4, hidden_features=(64,)).to(task.data.device)


def _generator(task: Task, learn_std: bool = False) -> Generator:
    from .latents import generator_network, latent_dim

    net = generator_network(task).to(task.data.device)
    return Generator(net, latent_dim(task), std=task.sigma, learn_std=learn_std)
