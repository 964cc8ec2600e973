package target_test

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi"
)

// smallGateway has less memory than one session may ask for.
var smallGateway = gateway.Options{MaxBytes: 16 << 20}

// run carries commands to their ends, all at once, and counts how they ended.
func (i *initiator) run(commands []*command) (ends map[byte]int) {
	i.t.Helper()
	open := make(map[uint32]*command)
	for _, c := range commands {
		i.start(c)
		open[c.tag] = c
	}
	ends = make(map[byte]int)
	results := make(map[uint32]*result)
	for len(open) > 0 {
		a := i.recv()
		tag := a.InitiatorTaskTag()
		if open[tag] == nil {
			i.t.Fatalf("%v for no command: %x", a.Opcode(), a.BHS)
		}
		if results[tag] == nil {
			results[tag] = new(result)
		}
		if i.take(open[tag], results[tag], a) {
			ends[results[tag].status]++
			delete(open, tag)
		}
	}
	return ends
}

// More than there is memory for, at once: all of it is done in its turn.
func TestWritesBeyondAllMemory(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway})
	var sessions sync.WaitGroup
	for n := range 3 {
		i := p.loginAs(t, initiatorName+string(rune('a'+n)))
		sessions.Go(func() {
			data := pattern(mib, byte(n))
			var all []*command
			for k := range 40 {
				all = append(all, &command{cdb: write10(k%16*2048, 2048), write: true, expected: mib, data: data})
			}
			if ends := i.run(all); ends[good] != len(all) {
				t.Errorf("session %d: %v", n, ends)
			}
		})
	}
	sessions.Wait()
	i := p.login(t)
	got := i.load(0, 0, 2048)
	if !bytes.Equal(got, pattern(mib, 0)) && !bytes.Equal(got, pattern(mib, 1)) && !bytes.Equal(got, pattern(mib, 2)) {
		t.Error("a mixture of writes")
	}
}

func TestReadsBeyondAllMemory(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway})
	i := p.login(t)
	i.store(0, 0, pattern(mib, 1))
	var all []*command
	for range 100 {
		all = append(all, &command{cdb: read10(0, 2048), read: true, expected: mib})
	}
	if ends := i.run(all); ends[good] != len(all) {
		t.Errorf("%v", ends)
	}
}

// The largest command finds room even where it is a quarter of all.
func TestLargestCommandsWithLittleMemory(t *testing.T) {
	for _, limit := range []int64{4 << 20, 8 << 20, 16 << 20} {
		t.Run(fmt.Sprint(limit>>20, " MiB"), func(t *testing.T) {
			p := serve(t, setup{gateway: gateway.Options{MaxBytes: limit}})
			i := p.login(t)
			data := pattern(4*mib, 5)
			i.store(0, 0, data)
			if !bytes.Equal(i.load(0, 0, 8192), data) {
				t.Error("not what was written")
			}
		})
	}
}

// Many of them, whose first data fills the spill before any has room for the rest: they do
// not wait for each other.
func TestLargestWritesOfManyAtOnce(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway})
	data := pattern(4*mib, 7)
	var sessions sync.WaitGroup
	for n := range 2 {
		i := p.dial(t)
		i.name = initiatorName + string(rune('a'+n))
		i.login("InitialR2T=No", "ImmediateData=Yes", "MaxRecvDataSegmentLength=262144", "FirstBurstLength=262144", "MaxBurstLength=1048576")
		sessions.Go(func() {
			var all []*command
			for range 70 {
				all = append(all, &command{cdb: write10(0, 8192), write: true, expected: len(data), data: data, attached: 256 * kib})
			}
			ends := i.run(all)
			if ends[good] == 0 || ends[good]+ends[taskSetFull] != len(all) {
				t.Errorf("session %d: %v", n, ends)
			}
		})
	}
	sessions.Wait()
}

// What comes unasked while the volume stalls and no memory is left goes to the spill, up
// to its bound; the rest is told to come again. The session goes on answering.
func TestUnaskedDataWhileTheVolumeStalls(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway})
	first := p.login(t)
	first.stalledRead(p, 0)
	before := heap()
	var starved []*initiator
	const each, sessions = 100, 4
	for n := range sessions {
		i := p.dial(t)
		i.name = initiatorName + string(rune('a'+n))
		l, err := i.tryLogin(i.loginKeys(), "InitialR2T=No", "ImmediateData=Yes", "MaxRecvDataSegmentLength=262144", "FirstBurstLength=262144", "MaxBurstLength=262144")
		must(t, err)
		if l.Status != iscsi.StatusSuccess {
			t.Fatal(l.Status)
		}
		i.do(command{cdb: testUnitReady()}).wants(t, checkCondition, 0x2900)
		starved = append(starved, i)
		data := pattern(256*kib, byte(n))
		for k := range each {
			i.start(&command{cdb: write10(k%32*512, 512), write: true, expected: len(data), data: data, attached: len(data)})
		}
	}
	full := 0
	for _, i := range starved {
		tag := i.nop(true, []byte("there?"))
		for done := false; !done; {
			a := i.recv()
			switch {
			case a.InitiatorTaskTag() == tag:
				done = true
			case a.Opcode() == iscsi.OpScsiResponse && a.BHS[3] == taskSetFull:
				full++
			default:
				t.Fatalf("%v while the volume stalls", a.Opcode())
			}
		}
	}
	if grown := heap() - before; grown > 160<<20 {
		t.Errorf("%d MiB of memory for 100 MiB of data, at most 80 were to be kept", grown>>20)
	}
	if full == 0 || full == sessions*each {
		t.Errorf("%d of %d writes refused", full, sessions*each)
	}
	p.chunks.open()
	ended := full
	for _, i := range starved {
		tag := i.nop(false, nil)
		for answered := false; !answered || i.maxCmdSN-i.cmdSN != 127; {
			a := i.recv()
			if a.InitiatorTaskTag() == tag {
				answered = true
				continue
			}
			if a.BHS[3] != good {
				t.Fatalf("a write that was taken ended with %#x", a.BHS[3])
			}
			ended++
		}
		i.alive()
	}
	if ended != sessions*each {
		t.Errorf("%d of %d writes were answered", ended, sessions*each)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// While its volume stalls, a full session answers pings and task management.
func TestStalledVolumeLeavesTheSessionAnswering(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway, luns: []int{0, 1}})
	i := p.login(t)
	i.ready(1)
	i.stalledRead(p, 0)
	data := pattern(mib, 1)
	for k := range 60 {
		i.start(&command{cdb: read10(k, 2048), read: true, expected: mib})
		i.start(&command{cdb: write10(k, 2048), write: true, expected: mib, data: data, attached: 32 * kib})
	}
	tag := i.nop(true, []byte("there?"))
	for {
		if a := i.recv(); a.InitiatorTaskTag() == tag {
			break
		} else if a.Opcode() == iscsi.OpR2T {
			continue
		}
	}
	// Another unit's commands go on as soon as there is room; its task management at once.
	if got := i.managedAmong(i.manage(iscsi.TaskRequest{Function: iscsi.AbortTaskSet, LUN: lunOf(1)})); got != iscsi.TaskComplete {
		t.Fatalf("result %d", got)
	}
	end := i.manage(iscsi.TaskRequest{Function: iscsi.AbortTaskSet})
	i.nop(true, nil)
	p.chunks.open()
	if got := i.managedAmong(end); got != iscsi.TaskComplete {
		t.Fatalf("result %d", got)
	}
	eventually(t, "the window is open again", func() bool {
		i.sync()
		return i.maxCmdSN-i.cmdSN == 127
	})
	i.ready(0)
	i.ready(1)
}

// managedAmong is managed, past what is answered before.
func (i *initiator) managedAmong(tag uint32) iscsi.TaskResult {
	i.t.Helper()
	for {
		a := i.recv()
		if a.InitiatorTaskTag() != tag {
			continue
		}
		var r iscsi.TaskResponse
		must(i.t, r.Decode(&a.BHS))
		return r.Result
	}
}

// Commands that wait for room can be aborted like all others, and leave none behind.
func TestTaskManagementEndsCommandsThatWaitForRoom(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway})
	i := p.login(t)
	i.stalledRead(p, 0)
	var last *command
	for k := range 40 {
		last = &command{cdb: read10(k, 2048), read: true, expected: mib}
		i.start(last)
	}
	if got := i.abort(last.tag, i.cmdSN-1); got != iscsi.TaskComplete {
		t.Fatalf("result %d", got)
	}
	tag := i.manage(iscsi.TaskRequest{Function: iscsi.LogicalUnitReset})
	i.quiet()
	p.chunks.open()
	if got := i.managed(tag); got != iscsi.TaskComplete {
		t.Fatalf("result %d", got)
	}
	i.ready(0)
	if got := i.maxCmdSN - i.cmdSN + 1; got != 128 {
		t.Errorf("window of %d commands afterwards", got)
	}
}

// A flood of discovery leaves the others room.
func TestDiscoveryFlood(t *testing.T) {
	p := serve(t, setup{})
	i := p.login(t)
	var floods sync.WaitGroup
	for range 4 {
		floods.Go(func() {
			for n := range 50 {
				d := p.dial(t)
				d.isid[5] = byte(n)
				if l, err := d.tryLogin([]string{"InitiatorName=" + d.name, "SessionType=Discovery", "AuthMethod=None"}); err != nil || l.Status != iscsi.StatusSuccess {
					t.Errorf("discovery: %v %v", l.Status, err)
				}
				d.close()
			}
		})
	}
	for range 100 {
		i.alive()
	}
	floods.Wait()
	i.alive() // discovery takes nobody's place
}
