// Package raftnet carries the raft messages of all copysets between chunkservers,
// finds out at once when a chunkserver dies, and gives leaders leases to read
// under. A Net is the links of one chunkserver; a Group is the raft.Transport of
// one copyset on it.
//
// # Links
//
// Of each ordered pair of chunkservers the first dials the second twice. CONTROL
// carries pings, votes, pre-votes, TimeoutNow and their answers: small messages
// that never wait behind bulk, a full disk queue, or raft's main goroutine. DATA
// carries AppendEntries and raft snapshots of all copysets; what waits is written
// in one writev. Wire formats are in wire.go and its neighbours. A connection
// begins with a hello each way: cluster, sender, receiver, and the sender's
// incarnation, a random number for each life of a process.
//
// A request for a copyset that is not here, or whose raft does not take its
// messages, is answered with an error: what is dropped costs its sender a timeout.
//
// # Pings
//
// One ping every Options.Ping to each peer lists the groups that are led here;
// raft's own heartbeats are not sent but answered from what votes and pings told
// (see beat). The receiver of a ping answers from what it knows of its raft (whom it
// has accepted, in which term), so a busy raft or disk does not delay it; raft itself
// hears of its leader every 100 ms. Raft is asked, through its queue, only about a
// leader that it has not accepted before.
//
// # Leases
//
// Claim: while LeaseUntil of a leader is in the future, no other replica of the
// group has been elected, and so none has acknowledged a write that the leader
// does not know of. The argument needs nothing of raft's timeouts and of its rule
// not to vote while it has a leader, which TimeoutNow sets aside; only that a
// leader of a term has the votes of a majority, that votes travel through here,
// and that clocks run at nearly the same rate.
//
// Promise. A follower that answers a ping of the leader L of term T with
// "promised" keeps back, for Options.Promise from then on, every vote of its own:
//   - a RequestVote for the group is not handed to its raft (freeLocked);
//   - a RequestVote by which its own raft asks others, having voted for itself, is
//     not sent.
//
// It does not promise while its raft has a RequestVote that it has not answered,
// as it may just be voting; nor once its raft is known to have seen a term above
// T, be it by an answer or by having asked for votes itself. (Its raft may have
// begun to vote for itself without this package knowing yet. That is no matter:
// the promise then comes before the requests, which wait for it.) The leader is a
// voter too, and keeps votes back until the latest lease that it ever reported.
//
// Lease. L counts a promise from when it SENT the ping, for Options.Lease, which
// is shorter than Promise. The ping arrived after it was sent, so the promise
// outlasts what L counts unless the two clocks' rates differ by the ratio of the
// two, 220/150: by 46 %. The lease ends when fewer than a majority of the voters
// (L among them) cover it.
//
// Now let N be elected in a later term. Its votes come from a majority, which has
// a voter V in common with the majority behind L's lease.
//   - V = L: L let no vote through before its lease had ended, and has no lease
//     while its raft has a RequestVote that it has not answered.
//   - V = N: N sent its requests for votes after its promise to L had run out, and
//     no vote but its own before that. (Its own vote is enough only where N is the
//     single voter left and L was just removed; then it is raft's heartbeat timeout,
//     above Suspect, that keeps N from standing before its promise has run out.)
//   - else: V's raft was handed N's request after V's promise had run out, or
//     before V promised. In the latter case V did not promise before raft had
//     answered, and had it voted for N, its term was above T and V refused L.
//
// In each case N was elected after L's lease had ended, so its first write comes
// later still; and a lease of N, made of answers to pings sent after its election,
// cannot overlap L's.
//
// What ends a promise early, and why that is sound:
//   - Release. The leader ends its lease first, then pings "released". A reader
//     that asks LeaseUntil again at its end cannot miss that. The release names no
//     promise made upon a later ping: pings are numbered for the life of a
//     process, an older one than seen is ignored, whatever link it came by, and
//     answers to pings sent before Lead was called again are not counted. TimeoutNow
//     releases before it asks another to take over. A TimeoutNow that is delayed
//     until the leader has its lease back only makes its receiver ask for votes,
//     which wait at every voter that has promised.
//   - Death. A process that is gone reads nothing. Peers take it for gone when it
//     comes back with another incarnation, or when every link from and to it has
//     broken and its address refuses connections. Net.Close ends the leases
//     before it closes the listener. A device on the path that answers in a live
//     process's stead, resetting its links and refusing new ones, breaks this: do
//     not reject peer traffic with resets, drop it. A leader whose link to a
//     follower broke stops counting that follower's promise, which leaves a
//     moment, not 150 ms, even then.
//
// Suspicion (silence) frees nobody: a promise to a silent leader runs out first,
// as Suspect is longer than Promise. (A peer that was silent and came back within the
// last minute is suspected later still: see suspect.go.) Campaigns injected by this package are
// TimeoutNow to the own raft, so all that was said of votes holds for them.
//
// Restarts. A replica that restarts has forgotten what it promised: every Group
// keeps all votes back for Promise from its making. A leader that restarts has
// forgotten its lease too.
//
// Stopped processes. The lease is computed from sending times by the monotonic
// clock. A process that is stopped and woken finds it in the past, before it
// reads a socket. The clock must run while the machine is: on a machine that is
// suspended as a whole with its clock, and woken, a lease may be used too long.
// Do not suspend, or migrate with a pause above 70 ms, virtual machines that serve.
//
// Membership. The leader's majority is by the newest configuration that it told
// Configure, votes are by the newest in each voter's log. raft changes one voter
// at a time, and majorities of neighbouring configurations intersect; the next
// change must not be proposed before Configure has been told of the last. A
// replica that is wiped forgets promises as one that restarts does, and its Group
// is made anew.
//
// # Campaigns
//
// Where a dead or silent peer led a group, the voters stand for election one after
// the other, in an order of each group's own, as long as they have not heard of, are
// not voting or have not just voted for somebody else, and a majority is in reach; and
// again until there is a leader. They are 40 ms apart, or the time of a vote on a slow
// disk, as the Gate tells it: where storing a vote takes longer than that, all vote for
// themselves before they hear of each other. The distance doubles with each election
// that nobody won, and is remembered for some seconds. Silence is measured only over
// time in which this process itself ran.
//
// raft's own timeouts stand behind all that, and begin a campaign where there was no
// leader to lose. A raft that stands by them hears no TimeoutNow, so that its pre-votes
// wait for the campaign's turn. They would also end an election before the votes of
// slow disks are in: OnPatience tells raft how long to wait.
//
// # Durability
//
// With a Gate, raft's log returns from StoreLogs before what it stored is
// durable. Answers that promise something, successes of AppendEntries and
// InstallSnapshot, leave when the Gate says that all that was appended is; and
// followers are told no commit index above what is durable at the leader, as they
// would apply what a crash of the leader may undo.
package raftnet
