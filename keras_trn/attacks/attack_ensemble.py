"""The attacks of AutoAttack that there are without PyTorch."""

from keras_trn.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from keras_trn.attacks.square import Square


def attack_ensemble(epsilon, norm="linf", steps=100, queries=1000, seed=None):
    """Makes the attacks to be run one after the other in the manner of AutoAttack.

    An image counts as robust if it withstands all of them: the accuracy is that of
    the worst case for each image, not the lowest in a column of a table.

    This is not AutoAttack: of its standard version, the targeted FAB-T and the
    targeted APGD-DLR are missing, and APGD-DLR without targets and fewer queries of
    Square stand in for them. Do not call a number from here an AutoAttack accuracy,
    which is usually lower.

    Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
    Ensemble of Diverse Parameter-Free Attacks", arXiv 2003.01690.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1].
        norm: `"linf"` or `"l2"`.
        steps: Number of steps of each APGD.
        queries: Number of queries of Square; 5000 in AutoAttack.
        seed: Whole number that fixes what is random.

    Returns:
        A list of APGD-CE, APGD-DLR and Square.

    Raises:
        ValueError: If an argument is malformed.

    Example:
        ```python
        attacks = keras_trn.attacks.attack_ensemble(epsilon=8 / 255, seed=0)
        assert [attack.name for attack in attacks] == ["APGD-CE", "APGD-DLR", "Square"]
        ```
    """
    return [
        *(
            AutoProjectedGradientDescent(epsilon, norm=norm, loss=loss, steps=steps, seed=seed)
            for loss in ("cross_entropy", "difference_of_logits_ratio")
        ),
        Square(epsilon, norm=norm, queries=queries, seed=seed),
    ]
