"""What is read from a program's text, on programs written by hand."""

import pytest

from marble.parallel.hlo import Module, parsed, size_of

BODY = """\
%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

ENTRY %main (x: f32[8,4], y: bf16[16]) -> f32[] {{
  %x = f32[8,4]{{1,0:T(8,128)}} parameter(0)
  %y = bf16[16]{{0:T(256)}} parameter(1)
  {line}
}}
"""


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("%r = f32[8,4]{1,0:T(8,128)S(1)} all-reduce(%x), channel_id=1, to_apply=%add", "all-reduce", 128),
        ("%r = (f32[8,4]{1,0}, /*index=1*/bf16[16]{0}) all-reduce(%x, %y), to_apply=%add", "all-reduce", 128 + 32),
        ("%r = (f32[8,4]{1,0}, bf16[16]{0}) all-reduce-start(%x, %y), to_apply=%add", "all-reduce", 128 + 32),
        ("%r = f32[8,4]{1,0} all-reduce(f32[8,4]{1,0} %x), to_apply=%add", "all-reduce", 128),
        ("%r = f32[32,4]{1,0} all-gather(%x), dimensions={0}", "all-gather", 512),
        ("%r = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%x), dimensions={0}", "all-gather", 512),
        (
            "%r = ((f32[8,4]{1,0}, bf16[16]{0}), (f32[32,4]{1,0}, bf16[64]{0})) all-gather-start(%x, %y)",
            "all-gather",
            512 + 128,
        ),
        ("%r = f32[2,4]{1,0} reduce-scatter(%x), dimensions={0}, to_apply=%add", "reduce-scatter", 128),
        ("%r = ((f32[8,4]{1,0}), f32[2,4]{1,0}, u32[]) reduce-scatter-start(%x)", "reduce-scatter", 128),
        ("%r = f32[8,4]{1,0} all-to-all(%x), dimensions={0}", "all-to-all", 128),
        ("%r = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[], u32[]) collective-permute-start(%x)", "collective-permute", 128),
        ("ROOT %r = bf16[16]{0} collective-permute(%y), source_target_pairs={{0,1}}", "collective-permute", 32),
    ],
)
def test_each_form_of_a_collective(line, kind, size):
    assert Module(BODY.format(line=line)).collective_bytes() == {kind: size}


@pytest.mark.parametrize(
    "line",
    [
        "%r = f32[8,4]{1,0} all-reduce-done(%x)",
        "%r = f32[8,4]{1,0} add(%all-reduce.3, %x)",
        '%r = f32[8,4]{1,0} copy(%x), metadata={op_name="all-reduce"}',
    ],
)
def test_what_is_no_collective_counts_nothing(line):
    assert Module(BODY.format(line=line)).collective_bytes() == {}


LOOPS = """\
HloModule jit_run, is_scheduled=true

FileNames
1 "file {{.py"

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %p = (s32[], f32[4]{{0}}) parameter(0)
  %v = f32[4]{{0}} get-tuple-element(%p), index=1
  %reduced = f32[4]{{0}} all-reduce(%v), to_apply=%sum
  %product = f32[4]{{0}} dot(%reduced, %v)
  ROOT %t = (s32[], f32[4]{{0}}) tuple(%v, %product)
}}

%condition (p: (s32[], f32[4])) -> pred[] {{
  %bound = s32[]{{:T(128)}} constant(5)
  %p = (s32[], f32[4]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[]{{:T(512)}} compare(%i, {bound}), direction=LT
}}

%called (c: f32[4]) -> f32[4] {{
  %c = f32[4]{{0}} parameter(0)
  %start = (s32[], f32[4]{{0}}) tuple(%c, %c)
  %loop = (s32[], f32[4]{{0}}) while(%start), condition=%condition, body=%inner
  ROOT %out = f32[4]{{0}} get-tuple-element(%loop), index=1
}}

%unused (u: f32[4]) -> f32[4] {{
  ROOT %u = f32[4]{{0}} all-reduce(%u), to_apply=%sum
}}

%outer (o: f32[4]) -> f32[4] {{
  %o = f32[4]{{0}} parameter(0)
  ROOT %f = f32[4]{{0}} fusion(%o), kind=kLoop, calls=%called
}}

%forever (n: f32[4]) -> pred[] {{
  %n = f32[4]{{0}} parameter(0)
  ROOT %yes = pred[] constant(true)
}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  %gathered = f32[32]{{0}} all-gather(%x), dimensions={{0}}
  ROOT %w = f32[4]{{0}} while(%x), condition=%forever, body=%outer{config}
}}
"""


@pytest.mark.parametrize(
    ("bound", "config", "runs"),
    [
        ("%bound", ', backend_config={"known_trip_count":{"n":"3"},"x":1}', 15),
        ("%bound", "", 5),
        ("%elsewhere", ', backend_config={"known_trip_count":{"n":"3"}}', 3),
        ("%elsewhere", "", 1),
    ],
)
def test_loops_count_as_often_as_they_run(bound, config, runs):
    module = Module(LOOPS.format(bound=bound, config=config))
    assert module.collective_bytes() == {"all-reduce": 16 * runs, "all-gather": 128}
    assert module.network_repeats() == runs


def test_a_program_without_a_network_repeats_nothing():
    assert Module(BODY.format(line="ROOT %r = f32[8,4]{1,0} add(%x, %x)")).network_repeats() == 1
    assert Module("").collective_bytes() == {}


def test_sizes():
    assert size_of("(f32[3,5]{1,0}, s4[3], pred[7], f8e4m3fn[8], c64[2], token[], u32[])") == 60 + 2 + 7 + 8 + 16 + 4
    assert size_of("(f32[3]{0:T(128)S(1)}, u32[], s32[])", without_scalars=True) == 12
    assert size_of("f32[0,5]{1,0}") == 0


def test_an_instruction_in_parts():
    line = "  ROOT %a.1 = (f32[2]{0:T(128)S(1)}, u32[]) all-reduce-start(%b.2, (f32[2], s32[]) %c), to_apply=%add"
    found = parsed(line)
    assert (found.name, found.type, found.opcode) == ("a.1", "(f32[2]{0:T(128)S(1)}, u32[])", "all-reduce-start")
    assert found.operands == ("b.2", "c") and found.rest == ", to_apply=%add"
