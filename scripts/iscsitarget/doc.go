// Package iscsitarget starts iSCSI targets as processes, ours and those that it is
// compared with, and makes units on them: for the programs that judge them all with
// the same initiator.
package iscsitarget
