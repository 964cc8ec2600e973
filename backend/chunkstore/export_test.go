package chunkstore

import "fmt"

// BlockSum is exported for tests.
var BlockSum = blockSum

// Layout tells tests where the parts of a chunk file are.
func Layout(chunkSize int64) (tableOff, sealOff, dataOff int64) {
	l := layoutOf(chunkSize)
	return tableStart, l.sealOff, l.dataOff
}

const tableStart = tableOff

// PlantedBugs are the names that WithBug takes.
var PlantedBugs = []string{"skip dirty mark", "skip table write", "skip directory sync", "skip sync at open", "skip data sync", "skip reconcile"}

// WithBug breaks the store on purpose.
func (o Options) WithBug(name string) Options {
	switch name {
	case "":
	case PlantedBugs[0]:
		o.planted.skipDirtyMark = true
	case PlantedBugs[1]:
		o.planted.skipTableWrite = true
	case PlantedBugs[2]:
		o.planted.skipDirSync = true
	case PlantedBugs[3]:
		o.planted.skipOpenSync = true
	case PlantedBugs[4]:
		o.planted.skipDataSync = true
	case PlantedBugs[5]:
		o.planted.skipReconcile = true
	default:
		panic(fmt.Sprintf("no bug named %q", name))
	}
	return o
}

// CleanAll does what the cleaner does once every chunk has been idle for long.
func (s *Store) CleanAll() { s.cleanIdle(0) }

// EvictAll puts every chunk that it can out of memory.
func (s *Store) EvictAll() {
	for i := range s.index.shards {
		for _, c := range s.index.appendOpen(nil, i) {
			s.evict(c, false)
		}
	}
}
