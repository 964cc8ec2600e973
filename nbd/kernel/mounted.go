package kernel

import (
	"slices"

	"github.com/prometheus/procfs"
)

// Mounted are the nodes, /dev/nbdN or /dev/nbdNpM, of a device and of its partitions
// on which this process sees a file system mounted.
func (s System) Mounted(index int) ([]string, error) {
	nodes, err := s.nodes(index)
	if err != nil {
		return nil, err
	}
	proc, err := procfs.NewFS(s.path("proc"))
	if err != nil {
		return nil, err
	}
	self, err := proc.Self()
	if err != nil {
		return nil, err
	}
	infos, err := self.MountInfo()
	if err != nil {
		return nil, err
	}
	var mounted []string
	for _, n := range nodes {
		if slices.ContainsFunc(infos, func(m *procfs.MountInfo) bool { return mountOf(m, n) }) {
			mounted = append(mounted, "/dev/"+n.name)
		}
	}
	return mounted, nil
}

// mountOf says whether a mount is of a node. File systems of several devices have a
// number of their own.
func mountOf(m *procfs.MountInfo, n node) bool {
	return m.MajorMinorVer == n.number || m.Source == "/dev/"+n.name
}
