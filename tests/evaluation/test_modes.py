import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.modes import class_entropy, modes

REAL = np.repeat([0, 1, 2, 3], 2500)


def test_equal_shares_diverge_by_nothing():
    found = modes(REAL, np.repeat([3, 2, 1, 0], 25))
    assert (found.hit, found.total) == (4, 4)
    assert found.divergence == pytest.approx(0, abs=1e-12)
    assert found.reverse_divergence == pytest.approx(0, abs=1e-12)


def test_samples_of_one_mode_have_the_closed_form():
    found = modes(REAL, np.full(100, 2))
    assert (found.hit, found.total) == (1, 4)
    # All in one of four: log 4. The other way, with half an item more in each class of 102.
    assert found.reverse_divergence == pytest.approx(np.log(4))
    expected = 0.25 * (np.log(0.25 / (100.5 / 102)) + 3 * np.log(0.25 / (0.5 / 102)))
    assert found.divergence == pytest.approx(expected)


def test_each_divergence_has_its_own_complaint():
    missing = modes(REAL, np.repeat([0, 1, 2], 1000))
    crowded = modes(REAL, np.repeat([0, 1, 2, 3], [2700, 100, 100, 100]))
    assert missing.divergence > crowded.divergence
    assert crowded.reverse_divergence > missing.reverse_divergence


def test_doubtful_samples_and_small_shares_do_not_count():
    samples = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])
    assert modes(REAL, samples).hit == 3
    confidences = np.array([0.9] * 9 + [0.4])
    assert modes(REAL, samples, confidences, least_confidence=0.5).hit == 2
    # 1 and 2 each have a tenth of the samples, 0.4 of their quarter.
    assert modes(REAL, samples, least_share=0.3).hit == 3
    assert modes(REAL, samples, least_share=0.5).hit == 1


def test_a_class_that_no_real_item_has_is_no_mode():
    found = modes(REAL, np.array([0, 1, 7]))
    assert (found.hit, found.total) == (2, 4) and np.isfinite(found.reverse_divergence)


def test_nothing_confident_hits_nothing():
    found = modes(REAL, np.array([0, 1]), np.array([0.1, 0.1]), least_confidence=0.5)
    assert found.hit == 0 and np.isfinite(found.divergence)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at least 1 samples, and there are 0"):
        modes(REAL, REAL[:0])
    with pytest.raises(UserError, match="without confidences: give both"):
        modes(REAL, REAL, least_confidence=0.5)


def test_the_class_entropy_has_its_closed_forms():
    assert class_entropy(REAL, 4) == pytest.approx(np.log(4))
    assert class_entropy(np.full(10, 7), 10) == 0
    # Three quarters and one quarter of two classes, in nats; the other eight add nothing.
    expected = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    assert class_entropy(np.array([1, 1, 1, 9]), 10) == pytest.approx(expected)


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(UserError, match=r"labels from 1 to 9: they must lie in 0 \.\. 8"):
        class_entropy(np.array([1, 9]), 9)
    with pytest.raises(UserError, match="at least 1 labels"):
        class_entropy(REAL[:0], 10)
