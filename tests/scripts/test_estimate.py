"""The cost models read what a compiler says of a program: loops, estimates."""

import pytest
from benchmark import estimate, hlo

PROGRAM = """HloModule example

%inner (state.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) parameter(0)
  %array = f32[8,4]{1,0:T(8,128)S(1)} get-tuple-element(%state.1), index=1
  %one = s32[] get-tuple-element(%state.1), index=0
  %tanh = f32[8,4]{1,0:T(8,128)S(1)} tanh(%array), backend_config={"estimated_cycles":"10"}
  ROOT %new = (s32[], f32[8,4]) tuple(%one, %tanh)
}

%until_35 (state.2: (s32[], f32[8,4])) -> pred[] {
  %state.2 = (s32[], f32[8,4]{1,0:S(1)}) parameter(0)
  %counter = s32[] get-tuple-element(%state.2), index=0
  %limit = s32[] constant(35)
  ROOT %less = pred[] compare(%counter, %limit), direction=LT
}

%update (p.0: f32[38,8,4], p.1: f32[8,4], p.2: s32[]) -> f32[38,8,4] {
  %p.0 = f32[38,8,4]{2,1,0} parameter(0)
  %p.1 = f32[8,4]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  %row = f32[1,8,4]{2,1,0} bitcast(%p.1)
  ROOT %dus = f32[38,8,4]{2,1,0} dynamic-update-slice(%p.0, %row, %p.2, %p.2, %p.2)
}

%step (state.3: (s32[], f32[8,4], f32[38,8,4])) -> (s32[], f32[8,4], f32[38,8,4]) {
  %state.3 = (s32[], f32[8,4]{1,0:S(1)}, f32[38,8,4]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.3), index=0
  %h = f32[8,4]{1,0:S(1)} get-tuple-element(%state.3), index=1
  %kept = f32[38,8,4]{2,1,0} get-tuple-element(%state.3), index=2
  %start = (s32[], f32[8,4]{1,0:S(1)}) tuple(%i, %h)
  %loop = (s32[], f32[8,4]{1,0:S(1)}) while(%start), condition=%until_35, body=%inner
  %last = f32[8,4]{1,0:S(1)} get-tuple-element(%loop), index=1
  %fused = f32[38,8,4]{2,1,0} fusion(%kept, %last, %i), kind=kLoop, calls=%update, backend_config={"estimated_cycles":"7"}
  ROOT %all = (s32[], f32[8,4], f32[38,8,4]) tuple(%i, %last, %fused)
}

%forever (state.4: (s32[], f32[8,4], f32[38,8,4])) -> pred[] {
  %state.4 = (s32[], f32[8,4]{1,0:S(1)}, f32[38,8,4]{2,1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state.4), index=0
  ROOT %more = pred[] compare(%number, %number), direction=NE
}

ENTRY %main (x: (s32[], f32[8,4], f32[38,8,4])) -> (s32[], f32[8,4], f32[38,8,4]) {
  %x = (s32[], f32[8,4]{1,0:S(1)}, f32[38,8,4]{2,1,0}) parameter(0)
  %copy = f32[8,4]{1,0} copy(%x), backend_config={"estimated_cycles":"1000"}
  ROOT %steps = (s32[], f32[8,4], f32[38,8,4]) while(%x), condition=%forever, body=%step, metadata={op_name="jit(f)/vmap(training_steps)/while"}
}
"""  # noqa: E501


def test_a_training_step_counts_its_inner_loops_and_nothing_around_it():
    steps = hlo.parse(PROGRAM).training_steps()
    assert sum(times * operation.cycles for operation, times in steps) == 35 * 10 + 7
    launches = [times for operation, times in steps if operation.opcode not in hlo.FREE]
    assert sum(launches) == 35 * 2 + 1 + 1  # tanh and two conditions


def test_turns_of_experiments_and_steps_in_a_kernel_are_counted():
    steps = hlo.parse(PROGRAM).training_steps(shards=4)
    assert sum(times * operation.cycles for operation, times in steps) == 4 * (35 * 10 + 7)
    text = PROGRAM.replace("while(%x), condition=%forever, body=%step", "custom-call(%x)")
    text = text.replace("training_steps)/while", "training_steps)/block_kernel/pallas_call")
    assert [times for _, times in hlo.parse(text).training_steps(block=100)] == [0.01]


def test_a_program_without_training_steps_is_refused():
    with pytest.raises(ValueError, match="training_steps"):
        hlo.parse(PROGRAM.replace("training_steps", "other")).training_steps()


@pytest.mark.parametrize("name", estimate.TARGETS)
def test_a_missing_compiler_is_one_line(name, monkeypatch):
    monkeypatch.setattr(estimate, "find_spec", lambda package: False)
    with pytest.raises(estimate.UserError, match="is missing, run pip install") as caught:
        estimate.devices_of(estimate.TARGETS[name])
    assert "\n" not in str(caught.value)
