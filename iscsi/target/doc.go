// Package target is the iSCSI front end of a gateway: portals that accept
// connections, the sessions on them, and the way of a command from the socket to
// its logical unit and back.
//
//	socket ─► stream.Input ─► transmit ─► scsi.Unit.Plan ─► [Data-Out] ─► Try / Execute
//	            (reader goroutine: transmission.go, command.go, dataout.go)      │
//	socket ◄─ stream.Output ◄─ sender (reply.go) ◄─ batch ◄── done at once ◄─────┤
//	                              ▲                                              │
//	                              └───── writer goroutine ◄── CommandDone ◄──────┘
//
// A session is one connection (MaxConnections is 1, ErrorRecoveryLevel 0): its
// reader goroutine does everything that does not wait, and answers it in batches;
// its writer (stream.Writer), which starts with the first command that waits, sends the
// rest. Serial numbers are stamped as PDUs go out, so the order on the wire is that
// of StatSN.
//
// # Contract
//
//   - The reader never waits for memory, so that pings and task management are
//     answered while the volume stalls. What has no room waits in a queue (room.go);
//     data that comes without being asked for has reserved room, up to a bound for
//     all sessions, beyond which the command ends with TASK SET FULL.
//   - A command keeps its place in the command window until its answer is sent.
//   - Nothing that a session has sent happens after what its successor sends (session
//     reinstatement): where a command of the old one is still in execution, the unit
//     holds those of the new one back.
//   - An order to persistent reservations that has succeeded is enforced by whichever
//     gateway has the volume, through whichever it came (enforce.go).
//   - What a session may see is what registry.Target.Sees says, also when that
//     changes while it lasts.
//
// Clauses are of RFC 7143 unless something else is said.
package target
