package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control"
)

var updateGolden = flag.Bool("update", false, "rewrite testdata/golden with what the code prints now; review the diff")

// sampleVolume has every field set.
func sampleVolume() backend.VolumeInfo {
	return backend.VolumeInfo{
		ID: 7, Name: "team/pg-data", Size: 10 << 30,
		Geometry:  backend.Geometry{BlockSize: 4096, ChunkSize: 16 << 20, SegmentSize: 1 << 30, StripeUnit: 64 << 10, StripeCount: 4},
		QoS:       backend.QoS{IOPS: 5000, IOPSBurst: 6000, BPS: 200 << 20, BPSBurst: 400 << 20},
		State:     backend.VolumeRecycled,
		Epoch:     3,
		Owner:     "gateway a pid 12",
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("east", 3600)),
		// A day later.
		RecycledAt: time.Date(2026, 1, 3, 3, 4, 5, 6, time.UTC),
	}
}

func goldenResults() map[string]result {
	healthy, down, alone := healthyFacts(), healthyFacts(), healthyFacts()
	down.members.Members[2].Process = processID{} // cs2, the leader
	alone.members, alone.mds = nil, []string{"10.0.0.1:6700"}
	allocated := int64(123 << 20)
	info := viewOf(sampleVolume())
	info.AllocatedBytes = &allocated
	plain := viewOf(backend.VolumeInfo{ID: 1, Name: "v", Size: 4096, Geometry: backend.DefaultGeometry(), State: backend.VolumeActive})
	results := map[string]result{
		"volume-info":     info,
		"volume-list":     viewsOf([]backend.VolumeInfo{sampleVolume()}),
		"volume-plain":    plain,
		"volume-recycled": recycledList(viewsOf([]backend.VolumeInfo{sampleVolume()})),
		"volume-none":     viewsOf(nil),
		"volume-du":       usageView{Name: "pg", SizeBytes: 10 << 30, AllocatedBytes: 5 << 20},
		"status": statusViewOf(gateway.Status{
			Version: "v1.2.3", PID: 42, StartedAt: time.Unix(1700000000, 0), DataDir: "/data",
			Listeners: []string{"control unix:/c", "nbd tcp:127.0.0.1:10809"}, InFlightRequests: 3, InFlightBytes: 12288, BufferBytes: 1 << 20,
			Exports: []gateway.ExportStatus{{
				Name: "pg", SizeBytes: 1 << 30, Epoch: 2, Connections: 4, Queued: 3, OldestQueued: 1500 * time.Millisecond,
				Reads: 5, ReadBytes: 20480, Writes: 6, WriteBytes: 24576, Errors: 1,
			}},
		}, []control.Target{goldenTarget()}),
		"status-stall": statusViewOf(gateway.Status{
			Version: "v1.2.3", PID: 42, StartedAt: time.Unix(1700000000, 0),
			Exports: []gateway.ExportStatus{{
				Name: "pg", SizeBytes: 1 << 30, Lost: "volume was opened elsewhere",
				Stalls: []gateway.Stall{{Copyset: 3, Since: time.Unix(1700000001, 0), Waiting: 2, For: "a leader", Leader: 1, Term: 4}},
			}},
		}, nil),
		"cluster":        healthy.view(),
		"cluster-down":   down.view(),
		"cluster-remote": alone.view(),
		"copyset-list":   copysetList(healthy.view().Copysets),
		"chunkservers":   chunkserverList(healthy.view().Chunkservers),
		"status-idle":    statusViewOf(gateway.Status{Version: "v1.2.3", PID: 42, StartedAt: time.Unix(1700000000, 0)}, nil),
		"health":         judge(false, gateway.Status{Exports: []gateway.ExportStatus{{Name: "pg", Queued: 2, OldestQueued: time.Minute}}}, time.Second),
		"bench": benchRows{{
			Backend: "memory", Op: "read", BlockSize: 4096, Depth: 32, Seconds: 2, Requests: 1000, Inline: 900, IOPS: 500, BytesPerSecond: 2048000,
			P50: 1000, P95: 2000, P99: 3000, P999: 4000000, Max: 5000000000, CPUPerIO: 800.5, AllocsPerIO: 0.25,
		}},
		"version": versionView{Version: "v1.2.3", Commit: "abc", Modified: true, Time: "2026-01-02T03:04:05Z", Go: "go1.26", Platform: "linux/amd64"},
	}
	maps.Copy(results, goldenTargets())
	return results
}

// Scripts depend on the JSON, people on the table.
func TestOutputIsFrozen(t *testing.T) {
	for name, r := range goldenResults() {
		for format, ext := range map[string]string{"json": ".json", "table": ".txt"} {
			t.Run(name+ext, func(t *testing.T) {
				var out bytes.Buffer
				if err := write(&out, format, r); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join("testdata", "golden", name+ext)
				if *updateGolden {
					if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), want) {
					t.Errorf("got\n%s\nwant\n%s", out.Bytes(), want)
				}
			})
		}
	}
}

func TestYAMLSaysWhatJSONSays(t *testing.T) {
	for name, r := range goldenResults() {
		t.Run(name, func(t *testing.T) {
			var asJSON, asYAML bytes.Buffer
			if err := write(&asJSON, "json", r); err != nil {
				t.Fatal(err)
			}
			if err := write(&asYAML, "yaml", r); err != nil {
				t.Fatal(err)
			}
			back, err := yaml.YAMLToJSON(asYAML.Bytes())
			if err != nil {
				t.Fatalf("%v in %s", err, asYAML.Bytes())
			}
			var a, b any
			if err := json.Unmarshal(asJSON.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(back, &b); err != nil {
				t.Fatal(err)
			}
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			if !bytes.Equal(x, y) {
				t.Errorf("JSON %s\nYAML %s", x, y)
			}
		})
	}
}

// A volume may have a name that YAML would take for something else.
func TestYAMLKeepsTextAndNumbersApart(t *testing.T) {
	for _, name := range []string{"1e3", "0x10", "007", "1.5", "null", "true", "yes", "-", ".", "~", "pg-data", "2026-01-02", "-.inf", "1_000"} {
		var out bytes.Buffer
		if err := write(&out, "yaml", usageView{Name: name, SizeBytes: 1<<60 - 1}); err != nil {
			t.Fatal(err)
		}
		var back map[string]any
		if err := yaml.Unmarshal(out.Bytes(), &back); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if back["name"] != name || fmt.Sprint(back["size_bytes"]) != "1152921504606846975" {
			t.Errorf("%s became %v in %s", name, back, out.Bytes())
		}
	}
}
