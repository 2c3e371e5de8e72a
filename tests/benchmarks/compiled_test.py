"""Costs of a program on an accelerator that is not there, read from its compiled form."""

import json

import jax
import jax.numpy as jnp
import pytest

from jaxcovid.benchmarks import tables
from jaxcovid.benchmarks.compiled import forecast, hlo, targets, traffic
from jaxcovid.benchmarks.compiled.collectives import Collective

# A map of 4 MiB that a fusion slices after a conversion, another one that is changed in place, a
# loop, a copy into the memory of the chip, a library's convolution and what devices exchange.
PROGRAM = """\
HloModule step, is_scheduled=true

%slices (p0: bf16[1024,2048], p1: f32[512]) -> f32[1024,512] {
  %p0 = bf16[1024,2048]{1,0} parameter(0)
  %wide = f32[1024,2048]{1,0} convert(%p0)
  %part = f32[1024,512]{1,0} slice(%wide), slice={[0:1024], [0:512]}
  %p1 = f32[512]{0} parameter(1)
  %all = f32[1024,512]{1,0} broadcast(%p1), dimensions={1}
  ROOT %sum = f32[1024,512]{1,0} add(%part, %all)
}

%replaces (p0: f32[1024,512], p1: f32[1,512], p2: s32[]) -> f32[1024,512] {
  %p0.1 = f32[1024,512]{1,0} parameter(0)
  %p1.1 = f32[1,512]{1,0} parameter(1)
  %p2.1 = s32[] parameter(2)
  ROOT %new = f32[1024,512]{1,0} dynamic-update-slice(%p0.1, %p1.1, %p2.1, %p2.1)
}

%body (state: (f32[1024,512])) -> (f32[1024,512]) {
  %state = (f32[1024,512]{1,0}) parameter(0)
  %now = f32[1024,512]{1,0} get-tuple-element(%state), index=0
  %next = f32[1024,512]{1,0} negate(%now)
  ROOT %out = (f32[1024,512]{1,0}) tuple(%next)
}

%condition (state.1: (f32[1024,512])) -> pred[] {
  %state.1 = (f32[1024,512]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: bf16[1024,2048], b: f32[512], c: f32[1,512], d: s32[]) -> f32[1024,512] {
  %a = bf16[1024,2048]{1,0} parameter(0), metadata={op_name="image(a)"}
  %b = f32[512]{0} parameter(1)
  %c = f32[1,512]{1,0} parameter(2)
  %d = s32[] parameter(3)
  %first = f32[1024,512]{1,0} fusion(%a, %b), kind=kLoop, calls=%slices
  %second = f32[1024,512]{1,0} fusion(%first, %c, %d), kind=kLoop, calls=%replaces
  %start = (f32[1024,512]{1,0}) tuple(%second)
  %loop = (f32[1024,512]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %third = f32[1024,512]{1,0} get-tuple-element(%loop), index=0
  %copy-start = (f32[1024,512]{1,0:T(8,128)S(1)}, f32[1024,512]{1,0}, u32[]) copy-start(%third)
  %copy-done = f32[1024,512]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %conv = (f32[1024,512]{1,0}, u8[0]{0}) custom-call(%third), \
custom_call_target="__cudnn$convForward"
  %fourth = f32[1024,512]{1,0} get-tuple-element(%conv), index=0
  %shared = f32[1024,512]{1,0} all-reduce-start(%fourth), to_apply=%add
  ROOT %result = f32[1024,512]{1,0} all-reduce-done(%shared)
}
"""
MAP = 1024 * 512 * 4


def test_bytes_of_each_kernel():
    measured = traffic.measure_traffic(hlo.parse_module(PROGRAM))
    kernels = {kernel.name: kernel for kernel in measured.kernels}
    assert list(kernels) == ["first", "second", "next", "copy-start", "conv", "shared"]
    assert (kernels["first"].read, kernels["first"].written) == (MAP // 2 + 2048, MAP)
    assert (kernels["second"].read, kernels["second"].written) == (2048 + 4, 2048)
    assert (kernels["next"].bytes_moved, kernels["next"].runs) == (3 * 2 * MAP, 3)
    assert (kernels["copy-start"].read, kernels["copy-start"].written) == (MAP, 0)
    assert kernels["conv"].bytes_moved == 2 * MAP
    assert measured.launches == 8
    assert measured.collectives == (Collective("all-reduce", MAP),)
    assert measured.by_kind()["elementwise"] == (4, 7.5 * MAP + 2048)
    assert set(measured.by_kind()) == {
        "elementwise",
        "copies",
        "products and convolutions",
        "collectives",
    }


def measured_with(lines, program=PROGRAM):
    """The traffic of a program with other operations at its end."""
    start = program.index("  %shared =")
    return traffic.measure_traffic(hlo.parse_module(f"{program[:start]}{lines}\n}}\n"))


BESIDE = """\
  %one = f32[1024,512]{1,0} all-reduce-start(%fourth), replica_groups={{0,1},{2,3}}, to_apply=%add
  %two = (f32[256,512]{1,0}, f32[1024,512]{1,0}) all-gather-start(%first), \
replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}
  %other = f32[1024,512]{1,0} negate(%third)
  %one.done = f32[1024,512]{1,0} all-reduce-done(%one)
  %another = f32[1024,512]{1,0} negate(%third)
  %two.done = f32[1024,512]{1,0} all-gather-done(%two)
  %three = f32[1024,512]{1,0} all-reduce(%fourth), replica_groups={}, to_apply=%add
  ROOT %last = f32[1024,512]{1,0} negate(%third)"""


def test_collectives_run_beside_the_kernels_between_their_start_and_end():
    assert measured_with(BESIDE).collectives == (
        Collective("all-reduce", MAP, (0, 1), kernels=1, beside=2 * MAP),
        Collective("all-gather", MAP, (0, 2), kernels=1, beside=2 * MAP),
        Collective("all-reduce", MAP),
    )


BETWEEN_SLICES = """\
  %token = token[] after-all()
  %send = (f32[1024,512]{1,0}, u32[], token[]) send(%fourth, %token), is_host_transfer=true
  %recv = (f32[1024,512]{1,0}, u32[], token[]) recv(%token), is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %other = f32[1024,512]{1,0} negate(%third)
  %recv-done = (f32[1024,512]{1,0}, token[]) recv-done(%recv)
  %send-done = token[] send-done(%send)
  ROOT %last = f32[1024,512]{1,0} get-tuple-element(%recv-done), index=0"""


def test_between_slices_a_tpu_sends_to_the_runtime_of_its_host():
    (collective,) = measured_with(BETWEEN_SLICES).collectives
    assert collective == Collective("all-reduce", MAP, (0, 4), kernels=1, beside=2 * MAP)
    assert collective.spans((2, 4)) == (2, 1)
    assert Collective("all-reduce", MAP).spans((2, 4)) == (2, 4)


def test_bytes_that_a_ring_sends():
    assert Collective("all-reduce", 800).sent(8) == 1400
    assert Collective("all-gather", 800).sent(8) == 700
    assert Collective("reduce-scatter", 100).sent(8) == 700


FUSED = """\
  %async-collective-start.1 = (f32[1024,512]{1,0:S(1)}, u32[]) fusion(%fourth), kind=kCustom, \
calls=%part
  %other = f32[1024,512]{1,0} negate(%third)
  %async-collective-done.1 = f32[1024,512]{1,0:S(1)} fusion(%other), kind=kCustom, calls=%part
  ROOT %last = f32[1024,512]{1,0} negate(%third)"""
PART = """%part (p: f32[1024,512]) -> f32[1024,512] {
  %p = f32[1024,512]{1,0:S(1)} parameter(0)
  ROOT %own = f32[1024,512]{1,0:S(1)} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

ENTRY"""


def test_a_tpu_fuses_the_parts_of_a_collective_with_other_kernels():
    (collective,) = measured_with(FUSED, PROGRAM.replace("ENTRY", PART)).collectives
    assert collective == Collective("all-reduce", MAP, (0, 1), kernels=1, beside=2 * MAP)


DOUBLE = """%double (p: f32[1024,512]) -> f32[1024,512] {
  %p = f32[1024,512]{1,0} parameter(0)
  ROOT %twice = f32[1024,512]{1,0} add(%p, %p)
}

%body ("""


@pytest.mark.parametrize(
    ("call", "runs"),
    [
        ("call(%second), to_apply=%double", 1),
        ("conditional(%d, %second, %second), branch_computations={%double, %double}", 2),
        ("conditional(%d, %second), true_computation=%double, false_computation=%double", 2),
    ],
)
def test_computations_that_are_called_run_too(call, runs):
    called = f"  %called = f32[1024,512]{{1,0}} {call}\n  %start ="
    text = PROGRAM.replace("  %start =", called).replace("%body (", DOUBLE, 1)
    measured = traffic.measure_traffic(hlo.parse_module(text))
    twice = [kernel for kernel in measured.kernels if kernel.name == "twice"]
    assert [kernel.read for kernel in twice] == [2 * MAP] * runs


def test_a_kernel_of_our_own_says_what_it_moves():
    line = '  %k = f32[1024,512]{1,0} custom-call(%first), custom_call_target="triton", '
    line += 'frontend_attributes={read_bytes="1000",written_bytes="200"}\n  %start ='
    module = hlo.parse_module(PROGRAM.replace("  %start =", line))
    kernel = next(k for k in traffic.measure_traffic(module).kernels if k.name == "k")
    assert (kernel.kind, kernel.read, kernel.written) == ("kernels of our own", 1000, 200)


def test_memory_that_is_only_reserved_costs_nothing():
    line = (
        '  %k = f32[1024,512]{1,0} custom-call(), custom_call_target="AllocateBuffer"\n  %start ='
    )
    module = hlo.parse_module(PROGRAM.replace("  %start =", line))
    assert "k" not in {kernel.name for kernel in traffic.measure_traffic(module).kernels}


def test_a_tpu_fills_tiles_up():
    (array,) = hlo.parse_shape("bf16[64,64,64,32]{3,2,1,0:T(8,128)(2,1)}")
    assert array.stored_bytes == 4 * array.elements * 2
    (array,) = hlo.parse_shape("f32[7,200]{0,1:T(8,128)}")
    assert array.stored_bytes == 128 * 200 * 4
    on_chip, vector = hlo.parse_shape("(f32[8]{0:T(128)S(1)}, f32[100]{0:T(128)})")
    assert (on_chip.space, vector.space, vector.stored_bytes) == (1, 0, 512)


def test_a_real_program_moves_at_least_its_arguments_and_results():
    x = jnp.ones((512, 512))
    text = jax.jit(lambda x: jnp.tanh(x @ x)).lower(x).compile().as_text()
    assert traffic.measure_traffic(hlo.parse_module(text)).bytes_moved >= 2 * x.nbytes


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no HLO program"):
        hlo.parse_module("nothing\n")


def test_targets_are_named_or_refused_with_what_there_is():
    target = targets.parse_target("tpu:v5e:4x4")
    assert (target.platform, target.size, str(target)) == ("tpu", 16, "tpu:v5e:4x4")
    assert targets.parse_target("gpu:h100:8").size == 8
    several = targets.parse_target("tpu:v5e:4x4:2")
    assert (several.slices, several.size, str(several)) == (2, 32, "tpu:v5e:4x4:2")
    refused = ("h100", "gpu:x100:8", "gpu:h100:2x4", "tpu:v5e:4x", "tpu:v5e:0", "tpu:v5e:4x4:0", "")
    for text in (*refused, "gpu:h100", "gpu:h100:8:2:2"):
        with pytest.raises(ValueError, match=r"gpu:h100(:8|, )"):
            targets.parse_target(text)


def test_a_missing_compiler_is_named_with_its_installation(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jax\[cuda13\]==[\d.]+'"):
        targets.devices_of(targets.parse_target("gpu:h100:8"))


def test_forecast():
    chip = targets.CHIPS["gpu:h100"]
    kernels = (traffic.Kernel("k", "elementwise", int(3e9), int(0.35e9)),)
    measured = traffic.Traffic(kernels, (Collective("all-reduce", 45_000_000),))
    # Of memory 3.35 GB at 3.35 TB/s; of arithmetic 4.945 TFLOP at 989 or 495 TFLOP/s.
    bound = forecast.lower_bound(measured, chip, flops=1e9, dtype="bfloat16")
    assert bound == pytest.approx(1e-3)
    for dtype, seconds in (("bfloat16", 5e-3), ("float32", 9.99e-3)):
        bound = forecast.lower_bound(measured, chip, flops=4.945e12, dtype=dtype)
        assert bound == pytest.approx(seconds, rel=1e-3)
    # A ring of 8 at 450 GB/s; one of 16 at 50 GB/s.
    fast = 2 * 7 / 8 * 1e-4 + 25e-6
    slow = 2 * 15 / 16 * 9e-4 + 30e-6
    for size, seconds in ((1, 0), (8, fast), (16, slow)):
        found = forecast.exchange_time(measured, chip, "gpu", compiled=(1, 8), wanted=(1, size))
        assert found == pytest.approx((seconds, seconds))
    rows = forecast.scaling(measured, chip, "gpu", compiled=(1, 8), bound=1e-3, images=64)
    assert [row["devices"] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert rows[0]["images_per_s"] == pytest.approx(64_000)
    assert rows[3]["efficiency"] == pytest.approx(1e-3 / (1e-3 + fast))


def test_forecast_of_what_is_hidden_and_of_slices():
    chip = targets.CHIPS["gpu:h100"]
    # A tenth of a millisecond of kernels; between hosts an eighth of the bytes.
    gather = Collective("all-gather", 45_000_000, tuple(range(8)), beside=int(0.335e9))
    reduce = Collective("all-reduce", 5_625_000, (0, 8))
    measured = traffic.Traffic((), (gather, reduce))
    inside = 7 / 8 * 1e-4 + 25e-6
    for hosts, across in ((1, 0), (2, 1.125e-4 + 15e-6), (4, 1.5 * 1.125e-4 + 20e-6)):
        taken, exposed = forecast.exchange_time(
            measured, chip, "gpu", compiled=(2, 8), wanted=(hosts, 8)
        )
        assert taken == pytest.approx(inside + across)
        assert exposed == pytest.approx(inside - 1e-4 + across)
    rows = forecast.scaling(measured, chip, "gpu", compiled=(2, 8), bound=1e-3, images=64)
    assert [row["devices"] for row in rows] == [8, 16, 32, 64, 128]


def test_the_command_needs_a_target(command):
    assert "needs --target" in command("benchmark", "compile", check=False).stderr
    options = ("compile", "--target=gpu:h100:1", "--peer=torch")
    assert "peer linen alone" in command("benchmark", *options, check=False).stderr


@pytest.mark.long
def test_the_train_step_compiles_for_tpus_that_are_not_there(command, tmp_path):
    pytest.importorskip("libtpu")
    options = ("--target=tpu:v5e:2x2", "--size=64", "--batch=8", "--batch_norm=groups:2")
    printed = command("benchmark", "compile", *options, f"--json={tmp_path / 'x.json'}").stdout
    result = json.loads((tmp_path / "x.json").read_text())
    assert (result["devices"], result["batch"], result["dtype"]) == (4, 8, "bfloat16")
    # Gradients and running moments of a network of 9.2 M parameters, float32.
    assert result["collective_bytes"] == pytest.approx(4 * 9.26e6, rel=0.02)
    assert 240 < result["all_reduces"] <= result["kernels"]
    assert result["bytes_moved"] > 3 * 4 * 9.2e6
    assert result["fits"]
    assert result["images_per_s_bound"] == pytest.approx(8 / result["bound_s"])
    assert "images/s, at most" in printed
    assert "efficiency" in printed


def test_the_table_has_a_row_for_each_kind_and_size():
    facts = {
        "framework": "jax 1",
        "batch": 8,
        "size": 64,
        "dtype": "bfloat16",
        "devices": 4,
        "device": "TPU v5e",
        "device_bytes": 2**30,
        "temporary_bytes": 2**29,
        "bytes_moved": 5_000_000_000,
        "kernels": 100,
        "all_reduces": 3,
        "collectives": 4,
        "collective_bytes": 7_000_000,
        "overlapped": 2,
        "overlapped_bytes": 5_000_000,
        "across_slices": 0,
        "across_slices_bytes": 0,
        "flops": 2e12,
        "bound_s": 0.01,
        "images_per_s_bound": 800.0,
        "trace_s": 1.0,
        "compile_s": 2.0,
        "by_kind": {"copies": {"kernels": 100, "bytes": 5_000_000_000}},
        "fits": False,
        "scaling": [
            {
                "devices": 1,
                "images_per_s": 200.0,
                "exchange_s": 0.0,
                "exposed_s": 0.0,
                "efficiency": 1.0,
            }
        ],
    }
    peer = {**facts, "framework": "linen 1", "by_kind": {"scatters": {"kernels": 1, "bytes": 0}}}
    cells = [line.split() for line in tables.compile_table({**facts, "peer": peer}).splitlines()]
    assert cells[0][:3] == ["train,", "batch", "8,"]
    assert ["copies", "100,", "5.00", "GB", "0,", "0.00", "GB"] in cells
    assert ["step,", "at", "least", "10", "ms", "10", "ms"] in cells
    assert ["It", "does", "not", "fit", "into", "the", "memory", "of", "the", "device."] in cells
    assert ["1", "200", "0.00", "ms", "0.00", "ms", "100%"] in cells
