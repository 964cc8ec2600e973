// Package iscsi speaks iSCSI as a target (RFC 7143). This half of it is pure:
// bytes in, bytes and decisions out. It opens no socket, starts no goroutine,
// reads no clock, and what it takes from outside (targets, access, secrets,
// random bytes) comes through Policy and LoginOptions.
//
//	48 bytes ─► BHS.Check ─► ScsiCommand.Decode … ─► (session)      pdu*.go, digest.go
//	login data ─► TextBuffer ─► Login.Receive ─► response + outcome text.go, login*.go
//	                               ├─► Negotiation.Receive           negotiate.go, keys.go
//	                               └─► chapServer                    chap.go
//
// # Contract
//
//   - Nothing is allocated on a peer's word. BHS.Check holds every length of a
//     PDU against the Limits of the phase before a caller reads further, and
//     text is bounded in bytes, pairs and rounds over a whole login.
//   - Any input gives a value or an error, never a panic. Encode panics only on
//     a length that its caller must not have passed (see putDataLength).
//   - Decode and Encode of a PDU allocate nothing and keep no reference to the
//     BHS. Decode sets every field.
//   - Reserved bits are ignored when received and zero when sent (RFC 7143
//     11.1), so a PDU of a later revision is not refused for them.
//   - A login that fails is answered with the status of RFC 7143 11.13.5; the
//     error for the log says more than the peer learns.
//   - A secret is a Secret: no way of formatting shows it.
//
// # What it does not do
//
//   - It proposes no key by itself: it answers what the initiator offers and
//     declares its own MaxRecvDataSegmentLength. Settings bound the answers; a
//     key the initiator leaves out has the default of RFC 7143.
//   - ErrorRecoveryLevel is 0. A SNACK is decoded only to be refused.
//   - Authentication is CHAP or none; no SRP, no Kerberos.
//   - Markers are obsolete and always refused.
package iscsi
