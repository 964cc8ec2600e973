// Package registry keeps which iSCSI targets there are: their units, who may log
// in and what they have to prove. Each target is a record in the cluster's
// metadata, so every gateway of the cluster serves the same ones.
//
// A Registry has a picture of all targets in memory, which costs its readers no IO
// and stays when the metadata cannot be reached. It looks for what other gateways
// have changed every Options.Poll, and tells those who asked (OnChange). Changes
// are made in the record, by compare-and-swap, and are in the picture when the
// call returns.
//
// # Secrets
//
// CHAP computes with the secret itself, so it is stored as it is, and whoever can
// read the metadata can read it: the files of a data directory and of an MDS are
// their owner's only, and what gateways and MDS say to each other is not
// encrypted. No error, log line or listing has a secret in it.
package registry
