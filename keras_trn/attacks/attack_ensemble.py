"""Several attacks to run one after the other."""

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from keras_trn.attacks.square import Square


def attack_ensemble(
    epsilon: Epsilon,
    norm: str = "linf",
    steps: int = 100,
    queries: int = 1000,
    seed: int | None = None,
) -> list[Attack]:
    """Makes a list of attacks to run one after the other, in the manner of AutoAttack.

    An image counts as robust if it withstands all of them: report the worst case per image,
    not the lowest number in a column.

    This is not AutoAttack. The targeted FAB-T and the targeted APGD-DLR of its standard version
    are missing; an untargeted APGD-DLR and fewer queries of Square replace them. Do not call a
    number from here an AutoAttack accuracy, which is usually lower (arXiv 2003.01690).

    Args:
        epsilon: Largest distance, in units of the image range [0, 1].
        norm: `"linf"` or `"l2"`.
        steps: Number of steps of each APGD.
        queries: Number of queries of Square; 5000 in AutoAttack.
        seed: Whole number that fixes what is random.

    Returns:
        A list of APGD-CE, APGD-DLR and Square.

    Example:
        ```python
        attacks = keras_trn.attacks.attack_ensemble(epsilon=8 / 255, seed=0)
        assert [attack.name for attack in attacks] == ["APGD-CE", "APGD-DLR", "Square"]
        ```
    """
    losses = ("cross_entropy", "difference_of_logits_ratio")
    return [
        *(AutoProjectedGradientDescent(epsilon, norm, loss, steps, seed) for loss in losses),
        Square(epsilon, norm, queries, seed),
    ]
