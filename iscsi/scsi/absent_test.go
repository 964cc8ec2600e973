package scsi

import "testing"

func TestAbsentUnit(t *testing.T) {
	u := NewAbsent(func(*Nexus) []uint64 { return []uint64{3 << 48, 5 << 48} })
	r := &rig{t: t, unit: u}
	t.Cleanup(u.Close)
	n := u.Attach(initiatorA, Port{ID: 1})
	if b := r.good(n, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96); len(b) != 96 || b[0] != 0x7f {
		t.Errorf("INQUIRY data % x", b)
	}
	r.fails(n, []byte{opInquiry, 1, vpdIdentification, 0, 96, 0}, nil, 96, IllegalRequest, InvalidFieldInCDB)
	luns := r.good(n, []byte{opReportLUNs, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, nil, 64)
	if len(luns) != 24 || luns[3] != 16 || luns[9] != 3 || luns[17] != 5 {
		t.Errorf("LUNs % x", luns)
	}
	if b := r.good(n, []byte{opReportLUNs, 0, 1, 0, 0, 0, 0, 0, 0, 64, 0, 0}, nil, 64); len(b) != 8 || b[3] != 0 {
		t.Errorf("well known LUNs % x", b)
	}
	if b := r.good(n, []byte{opRequestSense, 0, 0, 0, 18, 0}, nil, 18); b[2] != byte(IllegalRequest) || b[12] != 0x25 {
		t.Errorf("sense % x", b)
	}
	for name, cdb := range map[string][]byte{
		"TEST UNIT READY": turCDB,
		"READ":            span16(opRead16, 0, 0, 1),
		"READ CAPACITY":   {opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"port groups":     groupsCDB,
		"no command":      {0xff, 0, 0, 0, 0, 0},
		"nothing":         {},
	} {
		t.Run(name, func(t *testing.T) { r.fails(n, cdb, nil, 512, IllegalRequest, UnitNotSupported) })
	}
	u.LUNsChanged()
	u.Reset(func() {})
	r.good(n, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96)
	gone := make(chan struct{})
	u.Detach(n, func() { close(gone) })
	<-gone
}
