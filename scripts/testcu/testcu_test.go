package testcu

import "testing"

// said is what the tests print, cut short.
const said = `
Suite: Read10
  Test: Simple ...passed
  Test: DpoFua ...    [SKIPPED] READ10 is not implemented.
    [SKIPPED] again
passed
Suite: GetLBAStatus
  Test: BeyondEol ...
    [OK] GET_LBA_STATUS returned CHECK_CONDITION
    [FAILED] GET_LBA_STATUS successful but should have failed
FAILED
    1. test_get_lba_status_beyond_eol.c:38  - CU_ASSERT_EQUAL(_r,0)    Send PRIN/READ_KEYS
  Test: Simple ...FAILED
    1. test.c:1  - CU_ASSERT_EQUAL(_r,0)
  Test: UnmapSingle ...
    Test GETLBASTATUS`

func TestEveryVerdictIsRead(t *testing.T) {
	want := []Result{
		{"Read10.Simple", Passed, ""},
		{"Read10.DpoFua", Skipped, "READ10 is not implemented."},
		{"GetLBAStatus.BeyondEol", Failed, "GET_LBA_STATUS successful but should have failed"},
		{"GetLBAStatus.Simple", Failed, "test.c:1  - CU_ASSERT_EQUAL(_r,0)"},
		{"GetLBAStatus.UnmapSingle", "", ""},
	}
	got := parse(said)
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d: %v", len(got), len(want), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("result %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	if f := got[0].Family(); f != "Read10" {
		t.Errorf("family %q", f)
	}
}
