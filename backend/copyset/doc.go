// Package copyset is one raft group of replicas of the same chunks.
//
// SKELETON: see the contracts.
package copyset
