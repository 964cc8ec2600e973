package volume

import "github.com/opencurve/curve-nbd/backend"

// fence numbers the changes of this open on one copyset and knows which of them
// are not acknowledged yet; see backend.Op.Seq. The zero value has given no
// number.
type fence struct {
	// given numbers were given, 1 to given; all of 1 to settled are acknowledged.
	given, settled uint64
	// later has a bit, at seq modulo its size, for every number above settled
	// that is acknowledged. Made with the first change.
	later []uint64
}

const fenceWords = backend.FenceWindow / 64

// full says that no number may be given before the oldest is acknowledged: a
// replica would have to remember more than it does.
func (f *fence) full() bool { return f.given-f.settled >= backend.FenceWindow }

// number gives the next number.
func (f *fence) number() uint64 {
	if f.later == nil {
		f.later = make([]uint64, fenceWords)
	}
	f.given++
	return f.given
}

// low is what changes carry as Op.Low: every number below it is acknowledged.
func (f *fence) low() uint64 { return f.settled + 1 }

// acknowledge notes that the change of that number needs to be sent no more.
func (f *fence) acknowledge(seq uint64) {
	f.later[seq/64%fenceWords] |= 1 << (seq % 64)
	for f.settled < f.given {
		word, bit := &f.later[(f.settled+1)/64%fenceWords], uint64(1)<<((f.settled+1)%64)
		if *word&bit == 0 {
			return
		}
		*word &^= bit
		f.settled++
	}
}
