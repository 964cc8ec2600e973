package target_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/opencurve/curve-nbd/iscsi"
)

// A crowd of sessions with agreements of all kinds, with too little memory, that read and
// write at random, abort what they have begun, and reset the unit under the others: what
// was written is there, and what is over stays over.
func TestCrowd(t *testing.T) {
	p := serve(t, setup{gateway: smallGateway})
	const sessions, rounds = 4, 15
	seed := rand.Uint64()
	t.Log("seed", seed)
	var all sync.WaitGroup
	for n := range sessions {
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		i := p.dial(t)
		i.name = fmt.Sprint(initiatorName, n)
		i.cmdSN, i.statSN = random.Uint32(), random.Uint32()
		first := 512 << random.IntN(10)
		i.login(
			"HeaderDigest="+either(random, "None", "CRC32C"), "DataDigest="+either(random, "None", "CRC32C"),
			"InitialR2T="+either(random, "Yes", "No"), "ImmediateData=Yes",
			fmt.Sprint("MaxRecvDataSegmentLength=", 512+random.IntN(100_000)),
			fmt.Sprint("MaxBurstLength=", first<<random.IntN(4)), fmt.Sprint("FirstBurstLength=", first))
		m := &member{initiator: i, random: random, from: n * slots * slotBlocks, first: first}
		all.Go(func() {
			for range rounds {
				m.round()
			}
		})
	}
	all.Wait()
}

func either(random *rand.Rand, a, b string) string {
	if random.IntN(2) == 0 {
		return a
	}
	return b
}

// The part of the unit that is a session's own: at most one command at a time is in a slot.
const (
	slots      = 8
	slotBlocks = 512
)

type member struct {
	*initiator
	random  *rand.Rand
	from    int // block
	first   int // FirstBurstLength
	content [slots][]byte
}

// move is a command in a slot.
type move struct {
	command   command
	result    result
	slot, off int
	cmdSN     uint32
}

func (m *member) round() {
	moves := make(map[uint32]*move)
	for slot := range slots {
		v := m.move(slot)
		v.cmdSN = m.cmdSN
		m.start(&v.command)
		moves[v.command.tag] = v
	}
	functions := make(map[uint32]uint32) // by the tag of the request, what it is to end
	for tag, v := range moves {
		if m.random.IntN(8) == 0 {
			request := m.manage(iscsi.TaskRequest{Function: iscsi.AbortTask, ReferencedTaskTag: tag, RefCmdSN: v.cmdSN})
			functions[request] = tag
		}
	}
	if m.random.IntN(16) == 0 {
		functions[m.manage(iscsi.TaskRequest{Function: iscsi.LogicalUnitReset})] = iscsi.ReservedTag
	}
	for len(moves)+len(functions) > 0 {
		a := m.recv()
		tag := a.InitiatorTaskTag()
		if ended, ok := functions[tag]; ok {
			delete(functions, tag)
			for tag, v := range moves {
				if ended == iscsi.ReservedTag || ended == tag {
					m.unknown(v)
					delete(moves, tag)
				}
			}
			continue
		}
		v := moves[tag]
		if v == nil {
			m.t.Fatalf("%v of a command that is over", a.Opcode())
		}
		if m.take(&v.command, &v.result, a) {
			m.end(v)
			delete(moves, tag)
		}
	}
}

// move makes a command up; in a slot of which nothing is known, one that reads all of it.
func (m *member) move(slot int) *move {
	v := &move{slot: slot, off: m.random.IntN(slotBlocks)}
	n := 1 + m.random.IntN(slotBlocks-v.off)
	c := &v.command
	c.tag = uint32(100_000 + slot) // which was used before, and is free as soon as that is over
	if c.read = m.random.IntN(2) == 0; m.content[slot] == nil {
		v.off, n, c.read = 0, slotBlocks, true
	}
	c.expected = n * blockSize
	lba := m.from + slot*slotBlocks + v.off
	if c.read {
		c.cdb = read10(lba, n)
		return v
	}
	c.write, c.cdb, c.data = true, write10(lba, n), pattern(c.expected, byte(m.random.Uint32()))
	unasked := min(m.first, c.expected)
	c.attached = m.random.IntN(unasked + 1)
	if m.agreed["InitialR2T"] == "No" && m.random.IntN(2) == 0 {
		c.unsolicited = unasked - c.attached
	}
	return v
}

// end holds what a command says against what is known.
func (m *member) end(v *move) {
	known := m.content[v.slot]
	switch {
	case v.result.status != good:
		if s := v.result.status; s != taskAborted && s != taskSetFull && v.result.code()>>8 != 0x29 {
			m.t.Errorf("a command ended with %v", v.result)
		}
		m.unknown(v)
	case v.command.write:
		copy(known[v.off*blockSize:], v.command.data)
	case known == nil:
		m.content[v.slot] = v.result.data
	case !bytes.Equal(v.result.data, known[v.off*blockSize:][:v.command.expected]):
		m.t.Errorf("slot %d, block %d: %d bytes are not what was written", v.slot, v.off, v.command.expected)
	}
}

// unknown notes that a write may have been done in part.
func (m *member) unknown(v *move) {
	if v.command.write {
		m.content[v.slot] = nil
	}
}
