"""Rung 3: observers and ranges. Oracles: one pass over all values in f64, and what a range must satisfy."""

from itertools import pairwise

import numpy as np
import pytest

from refimpl.quant import nncf_ranges, observers
from refimpl.quant.calibrate import absmax, deciding

F32 = np.float32
RNG = np.random.default_rng(5)
BATCHES = [RNG.normal(size=shape).astype(F32) * 3 for shape in [(2, 5, 3), (1, 7, 3), (4, 1, 3)]]
SAMPLES = [sample for batch in BATCHES for sample in batch]
VALUES = np.concatenate([batch.ravel() for batch in BATCHES])


def observed(observer, batches):
    state = observer.start
    for batch in batches:
        state = observer.see(state, batch)
    found = observer.range(state)
    return found if observer.then is None else observed(observer.then(found), batches)


def check_mean_min_max(observer):
    """Samples have one weight each, however many came together."""
    low = float(np.mean([sample.min() for sample in SAMPLES], dtype=np.float64))
    high = float(np.mean([sample.max() for sample in SAMPLES], dtype=np.float64))
    assert low != -high
    assert observed(observer, BATCHES) == F32(max(abs(F32(low)), abs(F32(high))))
    for sign in (1, -1):
        one_sided = [sign * (np.abs(batch) + 1) for batch in BATCHES]
        assert observed(observer, one_sided) == F32(np.mean([np.abs(s).max() + 1 for s in SAMPLES], dtype=np.float64))


def test_min_max():
    assert observed(observers.MIN_MAX, BATCHES) == np.abs(VALUES).max()
    assert observed(observers.MIN_MAX, [-np.abs(VALUES)]) == np.abs(VALUES).max()


def test_mean_min_max():
    check_mean_min_max(observers.MEAN_MIN_MAX)


def check_percentiles(make):
    """NumPy's, to the bit, with no more kept than decide it; whatever comes first, and of how many there could be."""
    rising = np.sort(np.abs(VALUES)).reshape(3, -1)
    for batches in (BATCHES, rising, rising[::-1], -rising, [VALUES[:40]] * 3, [VALUES[:1]]):
        values = np.abs(np.concatenate([np.ravel(batch) for batch in batches])).astype(np.float64)
        for q in (0, 10, 50, 90, 98, 99, 99.99, 100):
            for most in (values.size, values.size + 1, 10 * values.size):
                observer = make(q, most)
                got = observed(observer, batches)
                assert (got.dtype, got.shape) == (F32, ())
                assert got == F32(np.percentile(values, q))
                state = observer.start
                for batch in batches:
                    state = observer.see(state, batch)
                    assert len(state.values) <= deciding(most, q)


def test_percentiles():
    check_percentiles(observers.percentiles)


def test_percentiles_of_more_than_was_said_or_nothing():
    for most, batches, came in ((VALUES.size - 1, BATCHES, VALUES.size), (VALUES.size, [], 0)):
        with pytest.raises(ValueError, match=f"{came} values were observed; need 1 to {most}"):
            observed(observers.percentiles(90, most), batches)


def test_fewer_never_decide_more():
    for q in (0, 1e-9, 33.3, 50, 99.99, 100):
        counts = [deciding(n, q) for n in [*range(1, 3000), 10**9, 10**9 + 1]]
        assert all(a <= b for a, b in pairwise(counts))
        assert counts[0] == 1


def check_mse_optimal(function):
    """No other of the hundred candidates loses less, by a quantizer written here."""
    clipped = np.append(np.linspace(-1, 1, 30001), 1.1).astype(F32)  # better off without its largest
    for x in (VALUES, np.append(VALUES, F32(40)), clipped, np.zeros(3, F32)):
        wide, largest = x.astype(np.float64), float(np.abs(x).max())

        def loss(high, wide=wide):
            step = high / 127 if high else 1.0
            return ((np.clip(np.rint(wide / step), -128, 127) * step - wide) ** 2).sum()

        best = min(loss(float(F32(largest) * F32(i / 100))) for i in range(1, 101))
        got = function(x)
        assert (got.dtype, got.shape) == (F32, ())
        assert loss(float(got)) <= best * (1 + 2.0**-16)  # codes on a tie may differ from those of f32


def test_mse_optimal():
    check_mse_optimal(observers.mse_optimal)
    assert observed(observers.MSE_OPTIMAL, BATCHES) == observers.mse_optimal(VALUES)
    assert observers.mse_optimal(np.append(np.zeros(9, F32), F32(2))) == 2  # of equals the largest


@pytest.mark.parametrize("observer", [observers.MIN_MAX, observers.MEAN_MIN_MAX, observers.MSE_OPTIMAL])
def test_nothing_observed(observer):
    with pytest.raises(ValueError, match="nothing was observed; need at least one batch"):
        observer.range(observer.start)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 2)), TypeError, "x has dtype float64; need float32"),
        (np.zeros((0, 2), F32), ValueError, r"x has shape \(0, 2\); need at least one value"),
        (np.full((1, 2), np.nan, F32), ValueError, r"x is nan at \[0, 0\]; need finite numbers"),
    ],
)
@pytest.mark.parametrize("observer", [observers.MIN_MAX, observers.MEAN_MIN_MAX, observers.percentiles(90, 9)])
def test_refusals(observer, x, error, message):
    with pytest.raises(error, match=message):
        observer.see(observer.start, x)


def test_mean_min_max_needs_samples():
    with pytest.raises(ValueError, match=r"x has shape \(3,\); need \(B, \.\.\.\)"):
        observers.MEAN_MIN_MAX.see(observers.MEAN_MIN_MAX.start, np.zeros(3, F32))


# --- NNCF's ranges ---------------------------------------------------------------------------------------------------


def test_symmetric_floor():
    np.testing.assert_array_equal(nncf_ranges.symmetric_high(F32([1, 0.005, 0])), F32([1, 0.01, 0.01]))
    np.testing.assert_array_equal(nncf_ranges.symmetric_high(F32([1e-6, 0])), F32([8e-5, 8e-5]))
    assert nncf_ranges.symmetric_weight_range(F32([3]))[0] == -3
    low, high = nncf_ranges.symmetric_activation_range(F32(-2)[...], F32(1)[...])
    assert (low, high) == (F32(-2) * F32(128 / 127), 2)


ENDS = [(-1.0, 254.4), (-1.0, 3.0), (0.5, 2.0), (-7.0, -1.0), (-3.0, 0.001), (-0.001, 3.0), (0.0, 0.0), (1e-4, 2e-4)]


def check_asymmetric_range(function):
    """0 is on a level, but beside the outermost; nothing observed is lost; one end goes out, as far as derived.

    With t = -255 low / width, z = rint(t): z (255 - t) / (255 - z) - t = 255 (z - t) / (255 - z) steps.
    """
    for low, high in ENDS:
        got_low, got_high = (float(end) for end in function(F32(low)[...], F32(high)[...]))
        zero = -got_low * 255 / (got_high - got_low)
        if 0 < round(zero) < 255:
            assert abs(zero - round(zero)) <= 255 * 4 * 2.0**-24
        move = 8e-4 if F32(high) - F32(low) <= 8e-4 else 0
        want_low, want_high = min(F32(low) - move, 0), max(F32(high) + move, 0)
        half, z = (want_high - want_low) / 2, round(zero)
        slack = 2.0**-22 * max(abs(low), abs(high), move)
        assert want_low - half / max(255 - z, 1) - slack <= got_low <= want_low + slack
        assert want_high - slack <= got_high <= want_high + half / max(z, 1) + slack
        assert abs(got_low - want_low) <= slack or abs(got_high - want_high) <= slack


def test_asymmetric_range():
    check_asymmetric_range(nncf_ranges.asymmetric_range)


def test_zero_beside_the_outermost_level_stays_there():
    for low, high in ((F32(-3), F32(0.001)), (F32(-0.001), F32(3))):
        assert nncf_ranges.asymmetric_range(low[...], high[...]) == (low, high)


def test_asymmetric_range_refuses_the_wrong_order():
    with pytest.raises(ValueError, match="need low <= high"):
        nncf_ranges.asymmetric_range(F32(1)[...], F32(0)[...])


def test_absmax_is_min_max():
    assert absmax(VALUES) == observed(observers.MIN_MAX, BATCHES)
