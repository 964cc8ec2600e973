// Package e2e tests the curve-nbd binary from outside: real processes, real
// sockets, real clients. It holds tests only.
package e2e
