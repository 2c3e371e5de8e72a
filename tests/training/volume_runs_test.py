"""A network that gives one answer for several slices of a volume: a whole run on the phantom."""

import pytest
import runs

from jaxcovid import evaluate
from jaxcovid.evaluation.selection import Selection
from jaxcovid.inference import predictor
from jaxcovid.report.summary import summarize
from jaxcovid.weights.export.export import export

pytestmark = pytest.mark.long

OPTIONS = (
    "--config.dataset=phantom",
    "--config.network=volume_net",
    "--config.volume.slices=3",
    "--config.model.attention=none",
    "--config.model.head=gap",
    "--config.epochs=0.2",
    "--config.validations_per_epoch=10",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, phantom):
    workdir = tmp_path_factory.mktemp("volumes") / "run"
    runs.finish(workdir, phantom, *OPTIONS)
    return workdir


def test_it_is_evaluated_by_volume(workdir, phantom):
    selection = Selection(split="test", data_dir=phantom)
    (result,) = evaluate.run([workdir], selection)
    assert result.per_image.n == result.per_image.n_patients == 38
    assert summarize(result).startswith("test on phantom, 38 volumes of 38 patients")
    assert result.saliency is None
    refitted = evaluate.run_refitted(workdir, "prototypes", selection)
    assert refitted.per_image.n == 38


def test_single_images_are_refused(workdir, tmp_path):
    network = predictor.load(workdir)
    message = "classifies volumes, by 3 slices of each"
    with pytest.raises(ValueError, match=message):
        network.probabilities(["scan.png"])
    with pytest.raises(ValueError, match=message):
        export(workdir, "stablehlo", output=tmp_path / "out")


@pytest.mark.parametrize(
    "option",
    ["--config.cache=memory", "--config.preprocess_on=device", "--config.volume.slices=-1"],
)
def test_what_volumes_do_not_go_with_is_refused(option, tmp_path, phantom, command):
    words = ("--config=configs/default.py:debug", *OPTIONS, option)
    where = (f"--workdir={tmp_path / 'run'}", f"--data_dir={phantom}")
    process = command("train", *words, *where, check=False)
    assert process.returncode == 1
    assert "volume.slices" in process.stderr
