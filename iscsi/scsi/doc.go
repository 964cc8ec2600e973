// Package scsi is the command set of a block device, for one logical unit: what
// SAM-5, SPC-4 and SBC-3 ask for as far as initiators use it. It knows nothing
// of networks; iSCSI is one way to bring commands here.
//
// A command takes two steps, so that a transport can refuse it, or find room,
// before a payload is on its way:
//
//  1. Plan decodes the CDB, holds it against the unit's state (unit attentions,
//     reservations, access state, limits) and says which way how many bytes go.
//  2. The transport brings the payload, or finds room for the answer.
//  3. Execute does the work: at once where nothing has to be waited for, else
//     the command's Done is told later. No command has a goroutine of its own,
//     except those that wait for metadata (GET LBA STATUS, PERSISTENT RESERVE)
//     and SANITIZE, which are rare.
//
// What the transport owes: it leaves a command and its slices alone between
// Execute and completion; every slice but the last is a multiple of the block
// size; it computes residuals from InLen or Transfer against what the initiator
// expected; it drops the answer of a command that is Unanswered.
//
// It also says when an answer with a unit attention was not sent (Unreported),
// when REPORT LUNS was answered by another unit (LUNsReported), and calls Refresh
// every few seconds where others may change the reservations. A unit in standby
// has no medium until Activate; NewAbsent is the unit for LUNs that have none.
//
// COMPARE AND WRITE, ORWRITE and WRITE AND VERIFY are atomic against every other
// command of the same Unit (rangelock.go), copies included. They are not against
// other front ends on the same volume.
//
// The vocabulary (opcodes, sense codes) is our own: gotgt has a table of it, but
// in variables, and its go.mod brings a logger, a configuration library and a
// storage cluster's client.
package scsi
