// Package raftnet carries the raft messages of all copysets between chunkservers.
//
// SKELETON: see the contracts.
package raftnet
