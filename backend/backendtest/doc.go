// Package backendtest is the contract of package backend as tests: TestChunks
// for backend.Chunks, TestMeta for backend.Meta. Every implementation runs the
// suite that concerns it; a sentence of the contract that no test here could
// see broken is a gap.
//
// The suites use small geometries and need no clock. They start each test on an
// empty store from the open function, and close it.
package backendtest
