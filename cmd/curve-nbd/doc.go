// Command curve-nbd is the whole system in one binary: the gateway daemon
// (serve), and the commands that talk to one over its control socket.
//
// This package wires and prints; what the words mean is decided below it. Its
// own contract is what scripts rely on:
//
//   - Results alone go to stdout, everything else to stderr.
//   - Exit codes are those of exit.go.
//   - Flags may stand before or after arguments, and before or after the
//     command (argv.go).
//   - Flags beat CURVE_* variables beat the configuration file (settings.go).
//   - JSON and YAML have snake_case keys and bytes as integers (output.go).
package main
