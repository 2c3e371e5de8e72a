"""The launchers, against stand-ins for what they start, and once on a real SLURM."""

import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import sys
import time

import kubernetes_validate
import pytest
import runs
import yaml
from absl import flags
from ml_collections import config_flags

REPOSITORY = pathlib.Path(__file__).parents[1]
LAUNCH = REPOSITORY / "launch"


def script(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/usr/bin/env bash", *lines, ""]))
    path.chmod(0o755)


def checkout(folder, requirements, *python):
    """A copy of what the launchers need, with lines of bash in place of an installed Python."""
    shutil.copytree(LAUNCH, folder / "launch", dirs_exist_ok=True)
    script(folder / ".venv/bin/python", *python)
    (folder / ".venv/bin/activate").write_text(f"PATH={folder}/.venv/bin:$PATH\n")
    for file in requirements:
        shutil.copy(REPOSITORY / file, folder / ".venv" / f"installed-{file.replace('/', '-')}")
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / file, folder / file)


def manifests():
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))


def job():
    (found,) = (manifest for manifest in manifests() if manifest["kind"] == "Job")
    return found


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_kubernetes_accepts_the_manifest(version):
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)
    misspelt = job()
    misspelt["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(misspelt, version, strict=True)


def test_pods_can_do_little():
    pod = job()["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"} == set(resources["limits"])


def test_pods_find_and_reach_each_other_and_no_one_else():
    found = {manifest["kind"]: manifest for manifest in manifests()}
    spec = job()["spec"]
    pod, name = spec["template"]["spec"], job()["metadata"]["name"]
    service = found["Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == pod["subdomain"]
    policy = found["NetworkPolicy"]["spec"]
    (peer,) = policy["ingress"][0]["from"]
    labels = [service["spec"]["selector"], policy["podSelector"]["matchLabels"]]
    assert [*labels, peer["podSelector"]["matchLabels"]] == [{"job-name": name}] * 3
    options = dict(word[2:].split("=", 1) for word in pod["containers"][0]["args"][1:])
    assert options["coordinator_address"].partition(":")[0] == f"{name}-0.{pod['subdomain']}"
    assert int(options["num_processes"]) == spec["completions"] == spec["parallelism"]
    assert options["process_id"] == "$(JOB_COMPLETION_INDEX)"
    assert (REPOSITORY / options["config"].partition(":")[0]).exists()
    (volume,) = (v for v in pod["volumes"] if "persistentVolumeClaim" in v)
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim == found["PersistentVolumeClaim"]["metadata"]["name"]
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    assert options["workdir"].startswith(mount["mountPath"] + "/")


def test_a_preempted_pod_saves_and_starts_again():
    spec = job()["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["backoffLimitPerIndex"] > 0  # a pod that dies costs one of these
    ignored = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert len(ignored) == len(spec["podFailurePolicy"]["rules"])
    assert {"type": "DisruptionTarget", "status": "True"} in ignored[0]["onPodConditions"]
    assert ignored[1]["onExitCodes"]["values"] == [143]  # SIGTERM, saved
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # the policy requires it
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("name", ["Dockerfile", "serve.Dockerfile"])
def test_images_name_no_registry_and_dockerfiles_find_their_files(name):
    lines = (LAUNCH / name).read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    containers = job()["spec"]["template"]["spec"]["containers"]
    images = [container["image"] for container in containers]
    assert len(bases) == len(images) == 1
    for image in bases + images:
        assert re.fullmatch(r"[a-z0-9-]+:[a-z0-9.-]+", image)
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert list(REPOSITORY.glob(source)), line
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 1000:1000"]


def test_dockerfiles_have_no_known_fault():
    hadolint = shutil.which("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not installed")
    process = runs.run([hadolint, *map(str, LAUNCH.glob("*Dockerfile"))])
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize(("name", "extra"), [("cuda", "cuda13"), ("tpu", "tpu")])
def test_accelerators_get_the_version_of_jax_that_is_tested(name, extra):
    (version,) = re.findall(r"^jax==(\S+)", (REPOSITORY / "requirements.txt").read_text(), re.M)
    lines = (LAUNCH / f"requirements-{name}.txt").read_text().splitlines()
    assert lines[1:] == ["-r ../requirements.txt", f"jax[{extra}]=={version}"]


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ((), ["-m", "not long"]),
        (("-k", "a b"), ["-m", "not long", "-k", "a b"]),
        (("--all",), []),
        (("--all", "tests/x_test.py"), ["tests/x_test.py"]),
    ],
)
def test_the_tests_come_in_two_tiers(typed, given, tmp_path):
    required = ["requirements.txt", "tests/requirements.txt"]
    checkout(tmp_path, required, 'printf "%s\\n" "$@" > ran')
    for tool in ("ruff", "mypy", "shellcheck"):
        script(tmp_path / ".venv/bin" / tool, f"echo {tool} >> checks")
    process = runs.run(["bash", tmp_path / "launch/test.sh", *typed])
    assert process.returncode == 0, process.stderr
    assert set((tmp_path / "checks").read_text().split()) == {"ruff", "mypy", "shellcheck"}
    words = (tmp_path / "ran").read_text().splitlines()
    assert words[:2] == ["-m", "pytest"]
    assert words[words.index("--durations") + 2 :] == given


def test_the_quickstart_goes_from_the_images_to_the_report(tmp_path):
    checkout(tmp_path, ["requirements.txt"], 'echo "$@" >> ran')
    process = runs.run(["bash", tmp_path / "launch/quickstart.sh"])
    assert process.returncode == 0, process.stderr
    assert "report.html" in process.stdout
    commands = re.findall(r"-m jaxcovid\.(\w+)", (tmp_path / "ran").read_text())
    assert commands == ["prepare", "audit", "train", "evaluate"]
    (config,) = re.findall(r"--config=(\S+)", (tmp_path / "ran").read_text())
    assert (REPOSITORY / config.partition(":")[0]).exists()


def sweep(*arguments):
    return runs.run(
        [sys.executable, LAUNCH / "sweep.py", *arguments],
    )


def resolved(options):
    """The configuration and workdir that jaxcovid.train would read from these words."""
    values = flags.FlagValues()
    words = ["train", *options]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=words)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert values(words) == ["train"]
    return values.config, values.workdir


SWEEPS = [path for path in (REPOSITORY / "configs").glob("*.py") if "def sweep" in path.read_text()]


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_sweeps_are_commands_that_resolve(path):
    spec = importlib.util.spec_from_file_location("swept", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = sweep(f"--config={path}:debug", "--workdir=runs/s", "--config.epochs=5").stdout
    workdirs = set()
    for line, overrides in zip(lines.splitlines(), module.sweep(), strict=True):
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "jaxcovid.train"]
        config, workdir = resolved(words[3:])
        expected = module.get_config("debug")
        expected.update_from_flattened_dict({"epochs": 5.0, **overrides})
        assert config.to_json() == expected.to_json()
        workdirs.add(workdir)
    assert len(workdirs) == len(lines.splitlines()) > 1
    assert {os.path.dirname(workdir) for workdir in workdirs} == {"runs/s"}  # noqa: PTH120


TRICKY = """
def sweep():
    yield {}
    yield {"dataset": "covid_ct/gray320", "model.depths": (2, 2, 2, 2)}
    yield {"dataset": "it's", "optimizer.learning_rate": 1e-4}
"""


def test_a_sweep_is_one_array_of_the_same_commands(tmp_path):
    path = tmp_path / "tricky.py"
    path.write_text("from configs.default import get_config\n" + TRICKY)
    common = (f"--config={path}", f"--workdir={tmp_path}")
    plain = [shlex.split(line)[3:] for line in sweep(*common).stdout.splitlines()]
    assert [pathlib.Path(resolved(words)[1]).name for words in plain] == [
        "default",
        "dataset=covid_ct-gray320_model.depths=-2-2-2-2-",
        "dataset=it-s_optimizer.learning_rate=0.0001",
    ]
    assert resolved(plain[1])[0].model.depths == (2, 2, 2, 2)
    assert resolved(plain[2])[0].dataset == "it's"
    words = shlex.split(sweep(*common, "--slurm=--time=8:00:00 --nodes=2").stdout)
    array = "sbatch --array=0-2 --time=8:00:00 --nodes=2 launch/slurm.sbatch"
    assert shlex.join(words[:5]) == array
    # What launch/slurm.sbatch makes of them in each element of the array.
    script(
        tmp_path / "bin/srun", 'while [ "$1" != train ]; do shift; done; printf "%s\\n" "${@:2}"'
    )
    script(tmp_path / "bin/scontrol", "echo n1")
    checkout(tmp_path, ["requirements.txt"])
    for index, options in enumerate(plain):
        process = batch(tmp_path, *words[5:], SLURM_ARRAY_TASK_ID=str(index))
        assert process.stdout.splitlines() == options


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no sweep()"), ("def sweep():\n    yield {}\n    yield {}\n", "two elements named")],
)
def test_a_sweep_that_cannot_work_is_one_message(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    process = sweep(f"--config={tmp_path}/bad.py", f"--workdir={tmp_path}")
    assert process.returncode == 1
    assert process.stdout == ""
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def batch(folder, *arguments, **environment):
    """Runs launch/slurm.sbatch as SLURM would, with the commands in `folder`/bin."""
    return runs.run(
        ["bash", LAUNCH / "slurm.sbatch", *arguments],
        env={
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_ID": "4097",
            "SLURM_JOB_NODELIST": "n[1-2]",
            **environment,
        },
    )


@pytest.mark.parametrize(
    ("status", "calls"),
    [
        (0, ["show hostnames n[1-2]"]),
        (1, ["show hostnames n[1-2]"]),
        (143, ["show hostnames n[1-2]", "requeue 4097"]),
    ],
)
def test_slurm_requeues_what_was_saved_and_nothing_else(tmp_path, status, calls):
    checkout(
        tmp_path,
        ["requirements.txt"],
        f'printf "%s\\n" "$@" > {tmp_path}/process-$SLURM_PROCID',
        f"exit $((SLURM_PROCID ? {status} : 0))",
    )
    script(
        tmp_path / "bin/srun",
        f'echo "$@" > {tmp_path}/srun',
        'while [ "$1" != bash ]; do shift; done',
        "export SLURM_NTASKS=2 status=0",
        'for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@" || status=$?; done',
        "exit $status",
    )
    script(tmp_path / "bin/scontrol", f'echo "$@" >> {tmp_path}/scontrol', "echo n1; echo n2")
    process = batch(tmp_path, "--config=a b", "--workdir=w", SLURM_CPUS_PER_TASK="3")
    assert process.returncode == status, process.stderr
    assert (tmp_path / "scontrol").read_text().splitlines() == calls
    assert "--cpus-per-task=3 bash" in (tmp_path / "srun").read_text()
    for index in range(2):
        assert (tmp_path / f"process-{index}").read_text().splitlines() == [
            "-m",
            "jaxcovid.train",
            "--coordinator_address=n1:61441",
            "--num_processes=2",
            f"--process_id={index}",
            "--config=a b",
            "--workdir=w",
        ]


def test_tpu_workers_all_get_the_code_and_run_the_same_command(tmp_path):
    workers = [tmp_path / "w0", tmp_path / "w1"]
    for worker in workers:
        checkout(
            worker / "jaxcovid",
            ["requirements.txt", "launch/requirements-tpu.txt"],
            'printf "%s\\n" "$@" > ran',
            'echo "${LIBTPU_INIT_ARGS:-}" > flags',
            "exit ${STATUS:-0}",
        )
    script(
        tmp_path / "bin/gcloud",
        f'printf "%s\\n" "${{@:1:5}}" >> {tmp_path}/gcloud',
        '[[ " $* " == *" --zone=z --worker=all"* ]] || exit 9',
        f"for worker in {' '.join(map(str, workers))}; do",
        '  case $4 in scp) cp "$5" "$worker" ;;',
        '    ssh) (cd "$worker" && bash -c "${!##--command=}") || exit 1 ;; esac',
        "done",
    )

    def run(**environment):
        return runs.run(
            ["bash", LAUNCH / "tpu_pod.sh", "pod", "z", "--config=a b;c", "--workdir=$HOME/w"],
            env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **environment},
        ).returncode

    assert run() == 0
    for worker in workers:
        ran = (worker / "jaxcovid/ran").read_text().splitlines()
        assert ran == ["-m", "jaxcovid.train", "--config=a b;c", "--workdir=$HOME/w"]
        copied = worker / "jaxcovid/jaxcovid/train.py"
        assert copied.read_text() == (REPOSITORY / "jaxcovid/train.py").read_text()
        assert (worker / "jaxcovid/flags").read_text().strip() == ""
    assert run(STATUS="143") != 0
    assert run(ASYNC="1") == 0
    flags = (workers[0] / "jaxcovid/flags").read_text().split()
    assert len(flags) == 5
    assert "--xla_enable_async_all_reduce=true" in flags
    usage = runs.run(["bash", LAUNCH / "tpu_pod.sh"])
    assert usage.returncode == 2
    assert "bash launch/tpu_pod.sh NAME ZONE" in usage.stderr


# Counts until it is let go; on SIGTERM it saves, which takes a while, and ends with 143.
STAND_IN = """
saved=saved-$SLURM_JOB_ID
trap 'sleep 3; echo $step > $saved; echo saved $step; exit 143' TERM
step=$(cat $saved 2>/dev/null || echo 0)
echo started at $step
[ -z "${FAIL:-}" ] || exit 1
step=$((step + 1))
touch counts-$SLURM_JOB_ID
while ! [ -e go ]; do sleep 0.5; step=$((step + 1)); done
echo finished
"""


@pytest.mark.long
def test_a_real_slurm_requeues_at_the_time_limit_and_when_preempted_not_when_cancelled(
    slurm, tmp_path
):
    checkout(tmp_path, ["requirements.txt"], STAND_IN)
    path = tmp_path / "launch/slurm.sbatch"
    sooner = path.read_text().replace("TERM@120", "TERM@20")
    assert sooner != path.read_text()
    path.write_text(sooner)

    def submit(*options, **environment):
        return slurm("sbatch", "--parsable", *options, "launch/slurm.sbatch", **environment)

    def state(number):
        shown = slurm("scontrol", "show", "job", number)
        return re.search(r"JobState=(\w+)", shown)[1], int(re.search(r"Restarts=(\d+)", shown)[1])

    def wait(number, expected):
        deadline = time.monotonic() + runs.TIMEOUT_S
        while state(number) != expected:
            assert time.monotonic() < deadline, (number, state(number), log(number))
            time.sleep(1)

    def wait_until_it_counts(number):
        deadline = time.monotonic() + runs.TIMEOUT_S
        while not (tmp_path / f"counts-{number}").exists():
            assert time.monotonic() < deadline, (number, state(number))
            time.sleep(0.1)

    def log(number):
        text = (tmp_path / f"slurm-{number}.out").read_text()
        return re.findall(r"^0: (started at|saved|finished) ?(\d*)$", text, re.M)

    limited = submit("--time=1")
    failing = submit(FAIL="1")
    wait(failing, ("FAILED", 0))
    requeued = submit()
    cancelled = submit()
    wait_until_it_counts(requeued)
    wait_until_it_counts(cancelled)
    slurm("scontrol", "requeue", requeued)  # what SLURM does to preempt a job
    slurm("scancel", cancelled)
    wait(requeued, ("PENDING", 1))
    wait(limited, ("PENDING", 1))
    wait(cancelled, ("CANCELLED", 0))
    (tmp_path / "go").touch()
    for number in (limited, requeued):  # SLURM waits two minutes
        slurm("scontrol", "update", f"jobid={number}", "timelimit=5", "starttime=now")
    for number in (limited, requeued):
        wait(number, ("COMPLETED", 1))
        (_, zero), (saved, at), (_, again), (last, _) = log(number)
        assert (zero, saved, again, last) == ("0", "saved", at, "finished")
        assert int(at) > 0
