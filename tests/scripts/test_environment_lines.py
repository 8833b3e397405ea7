"""What a script says of the environment: which of its variables come from there, and which nearly do."""

from __future__ import annotations

import pytest

from tests.scripts.test_launch_part import EVALUATE, TINY
from tests.support.recorded_scripts import LARGE, ONE_CARD, ROOT, ScriptRunner
from tests.support.tiers import tiered

# Of desktops, clusters, containers and continuous integration, as they are found there.
ORDINARY = """
CI CLICOLOR COLORTERM CONDA_DEFAULT_ENV CONDA_EXE CONDA_PREFIX CONDA_SHLVL CUDA_HOME CUDA_PATH
CUDA_VISIBLE_DEVICES CUDNN_VERSION DBUS_SESSION_BUS_ADDRESS DEBIAN_FRONTEND DESKTOP_SESSION DISPLAY EDITOR GITHUB_ACTIONS
GITHUB_REF GITHUB_WORKSPACE GPG_AGENT_INFO HF_DATASETS_CACHE HF_HOME HF_HUB_OFFLINE HF_TOKEN HISTFILE HISTSIZE HOSTNAME
HTTPS_PROXY HTTP_PROXY INFOPATH JAVA_HOME JOB_ID JUPYTER_PORT KUBERNETES_PORT KUBERNETES_SERVICE_HOST LANG LANGUAGE
LC_ALL LC_CTYPE LD_LIBRARY_PATH LESS LESSOPEN LIBRARY_PATH LOCAL_RANK LOGNAME LS_COLORS MAIL MANPATH MKL_NUM_THREADS
MODEL MODELS_DIR MODULEPATH MODULESHOME NAME NCCL_DEBUG NCCL_IB_DISABLE NCCL_SOCKET_IFNAME NO_PROXY
NUMEXPR_NUM_THREADS NVIDIA_DRIVER_CAPABILITIES NVIDIA_VISIBLE_DEVICES NV_CUDA_LIB_VERSION OMPI_COMM_WORLD_SIZE OLDPWD
OMP_NUM_THREADS OPENAI_API_KEY OPENBLAS_NUM_THREADS PAGER PIP_INDEX_URL PKG_CONFIG_PATH PS1 PWD PYENV_ROOT PYTHONHASHSEED
PYTHONUNBUFFERED PYTORCH_CUDA_ALLOC_CONF RANK RUNNER_OS RUNNER_TEMP SCRATCH SHELL SHLVL SLURM_ARRAY_TASK_ID
SLURM_CPUS_ON_NODE SLURM_GPUS SLURM_JOB_ID SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES SLURM_NNODES SLURM_NODEID SLURM_NPROCS
SLURM_NTASKS SLURM_PROCID SLURM_SUBMIT_DIR SSH_AUTH_SOCK SSH_CLIENT SSH_CONNECTION SSH_TTY TERM TERM_PROGRAM TMPDIR TMUX
TOKENIZERS_PARALLELISM TORCH_HOME TRANSFORMERS_CACHE TZ USER USERNAME USER_DIR VIRTUAL_ENV VISUAL WANDB_API_KEY WANDB_DIR
WANDB_MODE WANDB_PROJECT WORLD_SIZE WSL_DISTRO_NAME XAUTHORITY XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_DIRS
XDG_RUNTIME_DIR XDG_SESSION_ID http_proxy https_proxy no_proxy
""".split()
TRAINING = [*LARGE, *ONE_CARD, *TINY]


@pytest.fixture
def say(tmp_path):
    """say(script, **environment): the lines of its error output."""
    runner = ScriptRunner(ROOT, tmp_path)

    def _say(script, *arguments, **environment):
        done = runner.start(script, *arguments, LAUNCHER=environment.pop("LAUNCHER", None), **environment)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()

    return _say


@pytest.mark.parametrize("script", tiered([*TRAINING, *EVALUATE], quick=[TRAINING[0], EVALUATE[0]]))
def test_an_ordinary_environment_gives_no_line(script, say):
    assert say(script, **dict.fromkeys(ORDINARY, "C") | {"TMPDIR": "/tmp"}) == []


@pytest.mark.parametrize("script", tiered(TRAINING, quick=TRAINING[:3]))
def test_what_comes_from_the_environment_is_one_line(script, say):
    lines = say(script, LEARNING_RATE="1e-9", OUTPUT_DIR="my run", SEED="")
    assert lines == [r"from the environment: LEARNING_RATE=1e-9 OUTPUT_DIR=my\ run SEED=''"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("MAXSTEPS", "MAX_STEPS"),
        ("LEARNINGRATE", "LEARNING_RATE"),
        ("learning_rate", "LEARNING_RATE"),
        ("LEARNIGN_RATE", "LEARNING_RATE"),
        ("OUTPUT_DIRS", "OUTPUT_DIR"),
        ("Seed", "SEED"),
    ],
)
@pytest.mark.parametrize("script", [LARGE[2], "tiny/train_rl_model.sh"])
def test_a_name_that_is_nearly_one_is_named(script, given, meant, say):
    line = f"{given} is set in the environment and read by nothing: did you mean {meant}?"
    assert say(script, **{given: "1"}) == [line]


def test_names_of_ppo_and_of_the_trainers(say):
    (line,) = say("tiny/train_rl_model.sh", KLCOEF="1")
    assert line.endswith("did you mean KL_COEF?")
    (line,) = say("tiny/train_reward_model.sh", BATCHSIZE="1")
    assert line.endswith("did you mean BATCH_SIZE?")


def test_a_variable_of_another_script_and_one_that_is_fixed_are_none(say):
    """A pipeline passes everything to every stage; a large size takes its processes from NUM_GPUS."""
    assert say("tiny/train_sft.sh", KL_COEF="1", EVAL_SIZE="3", IMAGES="4") == []
    assert say(LARGE[0], NUM_PROCESSES="2") == []


def test_a_dry_run_says_the_same(say):
    assert say(LARGE[0], DRY_RUN="1", LEARNING_RATE="1", MAXSTEPS="2") == [
        "MAXSTEPS is set in the environment and read by nothing: did you mean MAX_STEPS?",
        "from the environment: LEARNING_RATE=1",
    ]
