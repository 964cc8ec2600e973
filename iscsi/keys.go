package iscsi

import (
	"slices"
	"strconv"
)

// The keys of RFC 7143 section 13, and AuthMethod of section 12.
const (
	keyHeaderDigest             = "HeaderDigest"
	keyDataDigest               = "DataDigest"
	keyMaxConnections           = "MaxConnections"
	keySendTargets              = "SendTargets"
	keyTargetName               = "TargetName"
	keyInitiatorName            = "InitiatorName"
	keyTargetAlias              = "TargetAlias"
	keyInitiatorAlias           = "InitiatorAlias"
	keyTargetAddress            = "TargetAddress"
	keyTargetPortalGroupTag     = "TargetPortalGroupTag"
	keyInitialR2T               = "InitialR2T"
	keyImmediateData            = "ImmediateData"
	keyMaxRecvDataSegmentLength = "MaxRecvDataSegmentLength"
	keyMaxBurstLength           = "MaxBurstLength"
	keyFirstBurstLength         = "FirstBurstLength"
	keyDefaultTime2Wait         = "DefaultTime2Wait"
	keyDefaultTime2Retain       = "DefaultTime2Retain"
	keyMaxOutstandingR2T        = "MaxOutstandingR2T"
	keyDataPDUInOrder           = "DataPDUInOrder"
	keyDataSequenceInOrder      = "DataSequenceInOrder"
	keyErrorRecoveryLevel       = "ErrorRecoveryLevel"
	keySessionType              = "SessionType"
	keyTaskReporting            = "TaskReporting"
	keyProtocolLevel            = "iSCSIProtocolLevel"
	keyOFMarker                 = "OFMarker"
	keyIFMarker                 = "IFMarker"
	keyOFMarkInt                = "OFMarkInt"
	keyIFMarkInt                = "IFMarkInt"
	keyAuthMethod               = "AuthMethod"
)

const maxSeconds = 3600

// Phase is where a text belongs.
type Phase uint8

// The phases that keys are allowed in.
const (
	PhaseSecurity Phase = 1 << iota
	PhaseOperational
	PhaseFullFeature

	phaseLogin = PhaseSecurity | PhaseOperational
	phaseAll   = phaseLogin | PhaseFullFeature
)

// rule is one key's row: who may send it when, and how its answer is found.
type rule struct {
	phases         Phase
	targetOnly     bool // the initiator may not send it
	leadingOnly    bool // LO: not in a connection added to a session
	notInDiscovery bool // answered Irrelevant there
	answer         func(n *Negotiation, offer string) (string, error)
}

// rules holds every key. Use, senders, scope and ranges are those of RFC 7143
// section 13; the comment is the clause.
var rules = map[string]rule{
	keyHeaderDigest: {phases: PhaseOperational, answer: func(n *Negotiation, offer string) (string, error) { // 13.1
		return pick(offer, n.settings.HeaderDigests, &n.agreed.HeaderDigest)
	}},
	keyDataDigest: {phases: PhaseOperational, answer: func(n *Negotiation, offer string) (string, error) { // 13.1
		return pick(offer, n.settings.DataDigests, &n.agreed.DataDigest)
	}},
	keyMaxConnections: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.2
		return lesser(offer, 1, 65535, n.settings.MaxConnections, &n.agreed.MaxConnections)
	}},
	keySendTargets: {phases: PhaseFullFeature, answer: func(n *Negotiation, offer string) (string, error) { // 13.3
		n.sendTargets = &offer
		return noAnswer, nil
	}},
	keyTargetName:           {phases: phaseLogin, answer: declared((*names).setTarget)},    // 13.4
	keyInitiatorName:        {phases: phaseLogin, answer: declared((*names).setInitiator)}, // 13.5
	keyTargetAlias:          {phases: phaseAll, targetOnly: true},                          // 13.6
	keyInitiatorAlias:       {phases: phaseAll, answer: declared((*names).setAlias)},       // 13.7
	keyTargetAddress:        {phases: phaseAll, targetOnly: true},                          // 13.8
	keyTargetPortalGroupTag: {phases: phaseLogin, targetOnly: true},                        // 13.9
	keyInitialR2T: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.10
		return either(offer, n.settings.InitialR2T, &n.agreed.InitialR2T)
	}},
	keyImmediateData: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.11
		return both(offer, n.settings.ImmediateData, &n.agreed.ImmediateData)
	}},
	keyMaxRecvDataSegmentLength: {phases: phaseAll, answer: (*Negotiation).declareSegment}, // 13.12
	keyMaxBurstLength: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.13
		return lesser(offer, 512, maxDataSegment, n.settings.MaxBurstLength, &n.agreed.MaxBurstLength)
	}},
	keyFirstBurstLength: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.14
		return lesser(offer, 512, maxDataSegment, min(n.settings.FirstBurstLength, n.agreed.MaxBurstLength), &n.agreed.FirstBurstLength)
	}},
	keyDefaultTime2Wait: {phases: PhaseOperational, leadingOnly: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.15
		return greater(offer, 0, maxSeconds, n.settings.DefaultTime2Wait, &n.agreed.DefaultTime2Wait)
	}},
	keyDefaultTime2Retain: {phases: PhaseOperational, leadingOnly: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.16
		return lesser(offer, 0, maxSeconds, n.settings.DefaultTime2Retain, &n.agreed.DefaultTime2Retain)
	}},
	keyMaxOutstandingR2T: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.17
		return lesser(offer, 1, 65535, n.settings.MaxOutstandingR2T, &n.agreed.MaxOutstandingR2T)
	}},
	keyDataPDUInOrder: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.18
		return either(offer, true, &n.agreed.DataPDUInOrder)
	}},
	keyDataSequenceInOrder: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.19
		return either(offer, true, &n.agreed.DataSequenceInOrder)
	}},
	keyErrorRecoveryLevel: {phases: PhaseOperational, leadingOnly: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.20
		return lesser(offer, 0, 2, 0, &n.agreed.ErrorRecoveryLevel)
	}},
	keySessionType: {phases: phaseLogin, leadingOnly: true, answer: declared((*names).setSessionType)}, // 13.21
	keyTaskReporting: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.23
		return pick(offer, n.settings.TaskReporting, &n.agreed.TaskReporting)
	}},
	keyProtocolLevel: {phases: PhaseOperational, leadingOnly: true, notInDiscovery: true, answer: func(n *Negotiation, offer string) (string, error) { // 13.24
		return lesser(offer, 0, 31, n.settings.ProtocolLevel, &n.agreed.ProtocolLevel)
	}},
	// 13.25: obsolete, still offered by initiators of RFC 3720. No marker has
	// an interval, so that is irrelevant.
	keyOFMarker:  {phases: PhaseOperational, answer: constant("No")},
	keyIFMarker:  {phases: PhaseOperational, answer: constant("No")},
	keyOFMarkInt: {phases: PhaseOperational, answer: constant(ValueIrrelevant)},
	keyIFMarkInt: {phases: PhaseOperational, answer: constant(ValueIrrelevant)},
}

// noAnswer is the answer of a declaration: none.
const noAnswer = ""

func constant(v string) func(*Negotiation, string) (string, error) {
	return func(*Negotiation, string) (string, error) { return v, nil }
}

func declared(set func(*names, string) error) func(*Negotiation, string) (string, error) {
	return func(n *Negotiation, v string) (string, error) { return noAnswer, set(&n.names, v) }
}

// pick takes the first offered value that is one of ours; the offer is in the
// initiator's order of preference (RFC 7143 6.2.1). Without one the key keeps
// its value and the answer is Reject.
func pick[T interface {
	comparable
	String() string
}](offer string, ours []T, agreed *T) (string, error) {
	list, err := ParseList(offer)
	if err != nil {
		return ValueReject, nil
	}
	for _, v := range list {
		if i := slices.IndexFunc(ours, func(o T) bool { return o.String() == v }); i >= 0 {
			*agreed = ours[i]
			return v, nil
		}
	}
	return ValueReject, nil
}

// either and both are the rules OR and AND of boolean keys (RFC 7143 6.2.2).
func either(offer string, ours bool, agreed *bool) (string, error) {
	v, err := ParseBool(offer)
	if err != nil {
		return ValueReject, nil
	}
	*agreed = v || ours
	return formatBool(*agreed), nil
}

func both(offer string, ours bool, agreed *bool) (string, error) {
	v, err := ParseBool(offer)
	if err != nil {
		return ValueReject, nil
	}
	*agreed = v && ours
	return formatBool(*agreed), nil
}

// lesser and greater are the rules Minimum and Maximum of numerical keys. An
// offer out of the key's range is rejected and the key keeps its value.
func lesser[T uint8 | uint16 | uint32](offer string, low, high uint64, ours T, agreed *T) (string, error) {
	return number(offer, low, high, agreed, func(v T) T { return min(v, ours) })
}

func greater[T uint8 | uint16 | uint32](offer string, low, high uint64, ours T, agreed *T) (string, error) {
	return number(offer, low, high, agreed, func(v T) T { return max(v, ours) })
}

func number[T uint8 | uint16 | uint32](offer string, low, high uint64, agreed *T, choose func(T) T) (string, error) {
	v, err := ParseNumber(offer)
	if err != nil || v < low || v > high {
		return ValueReject, nil
	}
	*agreed = choose(T(v))
	return strconv.FormatUint(uint64(*agreed), 10), nil
}
