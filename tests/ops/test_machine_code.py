"""Instructions and loops are found in listings of machine code."""

import pytest

pytest.importorskip("triton")

from transnext.ops.triton.machine_code import NARROW_LOADS, Instruction, Loop, amdgcn, loops, sass

NESTED = """
	code for sm_90
        /*0000*/                   LDC R1, c[0x0][0x28] ;              /* 0x00000a00ff017b82 */
                                                                       /* 0x000fe20000000800 */
        /*0010*/                   NOP ;
        /*0020*/              @!P0 BRA 0x90 ;
        /*0030*/                   LDG.E.U16 R2, desc[UR4][R2.64] ;
        /*0040*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0050*/               @P1 BRA 0xa0 ;
        /*0060*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0070*/               @P2 BRA 0x30 ;
        /*0080*/               @P3 BRA 0x10 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   FADD R1, R1, R1 ;
        /*00b0*/                   BRA 0x60 ;
        /*00c0*/                   BRA 0xc0;
        /*00d0*/                   NOP;
"""
"""Two loops, one in the other; code behind the end, from which it goes on within the inner one."""


def test_listing_of_nvidia() -> None:
    found = sass(NESTED)
    assert found[:3] == [Instruction("LDC"), Instruction("BRA", 8), Instruction("LDG.E.U16")]
    assert found[7:] == [
        Instruction("BRA", 1),
        Instruction("EXIT", falls_through=False),
        Instruction("FADD"),
        Instruction("BRA", 5, falls_through=False),
        Instruction("BRA", 11, falls_through=False),
    ]


def test_innermost_loops() -> None:
    """The branch around counts as the rest does; the outer loop and the last line are left out."""
    assert list(loops(sass(NESTED))) == [Loop(instructions=7, products=1, barriers=1)]
    assert list(loops([])) == []


def test_two_loops() -> None:
    two = [Instruction("FADD"), Instruction("BRA", 0), Instruction("HGMMA.64x8x16.F32"), Instruction("BRA", 2)]
    assert list(loops(two)) == [Loop(2, 0, 0), Loop(2, 1, 0)]


def test_listing_of_amd() -> None:
    found = amdgcn("""
attention_forward:                      ; @attention_forward
; %bb.0:
	s_load_dwordx4 s[0:3], s[4:5], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	v_mfma_f32_16x16x16_bf16 v[0:3], v[4:5], v[6:7], v[0:3]
	s_nop 1
	s_barrier
	s_cbranch_scc1 .LBB0_1
; %bb.2:
	s_endpgm
	.section	.rodata
""")
    assert [i.name for i in found[1:4]] == ["v_mfma_f32_16x16x16_bf16", "s_nop", "s_barrier"]
    assert list(loops(found)) == [Loop(4, 1, 1)]


@pytest.mark.parametrize(
    ("name", "narrow"),
    [
        ("LDG.E.U16", True),
        ("LDG.E.U16.CONSTANT", True),
        ("LDG.E.CONSTANT.S8", True),
        ("LDG.E.128.CONSTANT", False),
        ("LDG.E", False),
        ("LDS.U16", False),
        ("global_load_ushort", True),
        ("global_load_short_d16_hi", True),
        ("buffer_load_ubyte", True),
        ("global_load_dwordx4", False),
    ],
)
def test_narrow_loads(name: str, narrow: bool) -> None:
    assert bool(NARROW_LOADS.match(name)) == narrow
