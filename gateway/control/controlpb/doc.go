// Package controlpb is the control protocol's messages and stubs, generated
// from control.proto by scripts/gen.sh. Nothing in it is written by hand but
// this comment; package control turns it into the words of package backend.
package controlpb
