// Package raftlog is the log of all copysets on one disk: every raft group of a
// chunkserver appends to the same segments, and one sync serves all that wait.
//
// A Group is raft.LogStore, raft.StableStore and raft.MonotonicLogStore of one
// copyset. SKELETON: see the contract of each method.
package raftlog
