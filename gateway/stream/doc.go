// Package stream moves bytes of a client's connection in few system calls: Input
// reads as much as there is and hands it out piece by piece, Output writes many
// pieces at once. Both say when the peer stalls, and neither holds memory for a
// peer that is silent.
package stream
