"""Every check accepts the true implementation and rejects each plausible wrong one."""

import pytest
from mutants import SUITES as REFIMPL
from mutants_amx import AMX_AND_BF16
from mutants_attention import INTEGER_ATTENTION
from mutants_compare import COMPARE
from mutants_compare_command import COMPARE_COMMAND
from mutants_distillation import DISTILLATION
from mutants_encoder import ENCODER
from mutants_explain import EXPLAIN
from mutants_f32 import F32_KERNELS
from mutants_fake_quantization import FAKE_QUANTIZATION
from mutants_gradients import GRADIENTS
from mutants_instances import INSTANCES
from mutants_kernels import KERNELS
from mutants_oracle import ORACLE
from mutants_profile import PROFILE
from mutants_propagation import PROPAGATION
from mutants_prune import PRUNE
from mutants_quantization import QUANTIZATION
from mutants_recipe_files import RECIPE_FILES
from mutants_recipes import RECIPES
from mutants_records import RECORDS
from mutants_saturating import SATURATING_AND_BITMASK
from mutants_saturation import SATURATION
from mutants_start import START
from mutants_structured import STRUCTURED
from mutants_training import TRAINING

SUITES = [
    *REFIMPL,
    *KERNELS,
    *SATURATING_AND_BITMASK,
    *AMX_AND_BF16,
    *F32_KERNELS,
    *EXPLAIN,
    *STRUCTURED,
    *PRUNE,
    *INTEGER_ATTENTION,
    *ENCODER,
    *PROPAGATION,
    *START,
    *RECIPE_FILES,
    *RECIPES,
    *RECORDS,
    *INSTANCES,
    *GRADIENTS,
    *ORACLE,
    *PROFILE,
    *SATURATION,
    *COMPARE,
    *COMPARE_COMMAND,
    *TRAINING,
    *DISTILLATION,
    *FAKE_QUANTIZATION,
    *QUANTIZATION,
]

MUTANTS = [
    pytest.param(suite.check, mutant, id=f"{suite.check.__name__.removeprefix('check_')}: {name}")
    for suite in SUITES
    for name, mutant in suite.mutants.items()
]


@pytest.mark.parametrize("suite", SUITES, ids=[suite.check.__name__ for suite in SUITES])
def test_the_true_one_is_accepted(suite):
    suite.check(suite.true)


@pytest.mark.parametrize(("check", "mutant"), MUTANTS)
def test_a_wrong_one_is_rejected(check, mutant):
    """By an assertion about its result: a mutant that merely crashes would prove nothing."""
    with pytest.raises(AssertionError):
        check(mutant)
