package scsi

import "testing"

// BenchmarkInline is what a command costs above the volume, beside that itself.
func BenchmarkInline(b *testing.B) {
	for name, cdb := range map[string][]byte{
		"TEST UNIT READY": turCDB,
		"READ(10) 4k":     spanOf(10, opRead10, 0, 8, 8),
		"WRITE(10) 4k":    spanOf(10, opWrite10, 0, 8, 8),
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, rigOptions{})
			data := filled(8, 2)
			r.write(0, filled(64, 1))
			c := &Command{In: make([][]byte, 0, 1), Out: make([][]byte, 0, 1)}
			b.ReportAllocs()
			for b.Loop() {
				c.Reset()
				c.CDB, c.Nexus, c.ExpectedIn, c.ExpectedOut = cdb, r.a, 4096, 4096
				if !r.unit.Plan(c) {
					b.Fatal("not planned")
				}
				c.In, c.Out = append(c.In, data), append(c.Out, data)
				if !r.unit.Execute(c) {
					b.Fatal("not done at once")
				}
			}
		})
	}
}
