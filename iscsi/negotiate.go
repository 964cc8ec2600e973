package iscsi

import (
	"errors"
	"fmt"
)

// What an initiator may do wrong in a negotiation. They are wrapped with the key.
var (
	ErrRenegotiated = errors.New("key was negotiated before")
	ErrWrongPhase   = errors.New("key does not belong here")
	ErrWrongSender  = errors.New("key is not an initiator's")
	ErrBadOffer     = errors.New("value cannot be offered")
	ErrNoDigest     = errors.New("initiator does without a digest that is required")
)

// names is what the initiator says of itself and of where it wants to go.
type names struct {
	initiator, target, alias string
	hasTarget, discovery     bool
}

// maxAlias is the length of an alias, RFC 7143 13.7.
const maxAlias = 255

func (n *names) setInitiator(v string) (err error) {
	n.initiator, err = ParseName(v)
	return err
}

// setTarget keeps any name: one that is not a name is not found later.
func (n *names) setTarget(v string) error {
	if name, err := ParseName(v); err == nil {
		v = name
	}
	n.target, n.hasTarget = v, true
	return nil
}

func (n *names) setAlias(v string) error {
	if len(v) > maxAlias {
		return fmt.Errorf("%w: alias of %d bytes, at most %d", ErrBadOffer, len(v), maxAlias)
	}
	n.alias = v
	return nil
}

func (n *names) setSessionType(v string) error {
	switch v {
	case "Normal":
		n.discovery = false
	case "Discovery":
		n.discovery = true
	default:
		return fmt.Errorf("%w: %q", errSessionType, clip(v))
	}
	return nil
}

var errSessionType = errors.New("unknown session type")

// Negotiation is one connection's negotiation of keys, from the target's side.
// It answers offers in the order they come and sums up what was agreed.
type Negotiation struct {
	settings    Settings
	agreed      Parameters
	names       names
	seen        map[string]string
	sendTargets *string
	declaredOwn bool
	leading     bool
	namesFixed  bool // the policy was asked about them
}

// NewNegotiation starts from the defaults of RFC 7143. leading says that the
// connection opens its session rather than joins one.
func NewNegotiation(s Settings, leading bool) *Negotiation {
	n := &Negotiation{settings: s, agreed: DefaultParameters, seen: make(map[string]string), leading: leading}
	n.agreed.MaxRecvDataSegmentLength = s.MaxRecvDataSegmentLength
	return n
}

// Receive takes the pairs of one text and returns the answers, in the same
// order. An error is a protocol error: it ends the login, or the text exchange.
// AuthMethod and the keys of CHAP are not its business.
func (n *Negotiation) Receive(phase Phase, pairs []Pair) ([]Pair, error) {
	// These decide how others are answered, wherever in the text they stand.
	answered := make(map[string]string)
	for _, key := range []string{keySessionType, keyMaxBurstLength} {
		if v, ok := lookup(pairs, key); ok {
			a, err := n.receive(phase, key, v)
			if err != nil {
				return nil, err
			}
			answered[key] = a
		}
	}
	var answers []Pair
	for _, p := range pairs {
		a, ok := answered[p.Key]
		if !ok {
			var err error
			if a, err = n.receive(phase, p.Key, p.Value); err != nil {
				return nil, err
			}
		}
		if a != noAnswer {
			answers = append(answers, Pair{p.Key, a})
		}
	}
	return answers, nil
}

func (n *Negotiation) receive(phase Phase, key, value string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("iscsi: %s: %w", key, err) }
	r, ok := rules[key]
	if !ok { // X- and X# keys too: we know none (RFC 7143 6.2)
		if value == ValueNotUnderstood {
			return noAnswer, nil // what would be an answer to us must not be answered again
		}
		return ValueNotUnderstood, nil
	}
	if r.targetOnly {
		return fail(ErrWrongSender)
	}
	if r.phases&phase == 0 || r.leadingOnly && !n.leading && key != keySessionType {
		return fail(ErrWrongPhase)
	}
	if before, said := n.seen[key]; n.namesFixed && isIdentity(key) && (!said || before != value) {
		return fail(ErrWrongPhase) // or the policy would have judged another login
	}
	if phase != PhaseFullFeature {
		before, ok := n.seen[key]
		if ok && before == value && isDeclaration(key) {
			return noAnswer, nil // said again in the next stage, as some initiators do
		}
		if ok {
			return fail(ErrRenegotiated)
		}
		n.seen[key] = value
	}
	if value == ValueReject || value == ValueIrrelevant || value == ValueNotUnderstood {
		return fail(fmt.Errorf("%w: %s is an answer", ErrBadOffer, value))
	}
	if r.notInDiscovery && n.names.discovery {
		return ValueIrrelevant, nil
	}
	answer, err := r.answer(n, value)
	if err != nil {
		return fail(err)
	}
	return answer, nil
}

// isDeclaration tells the keys whose value is said, not negotiated.
func isDeclaration(key string) bool {
	switch key {
	case keyInitiatorName, keyTargetName, keyInitiatorAlias, keySessionType:
		return true
	}
	return false
}

// isIdentity tells the declarations that decide who logs in to what.
func isIdentity(key string) bool { return isDeclaration(key) && key != keyInitiatorAlias }

// declareSegment takes the most that the initiator receives in one PDU. There
// is no way to reject a declaration, so a bad one is an error.
func (n *Negotiation) declareSegment(value string) (string, error) {
	v, err := ParseNumber(value)
	if err != nil {
		return "", err
	}
	if v < 512 || v > maxDataSegment {
		return "", fmt.Errorf("%w: %d, must be 512 to %d", ErrBadOffer, v, maxDataSegment)
	}
	n.agreed.MaxSendDataSegmentLength = uint32(v)
	return noAnswer, nil
}

// Declare returns what the target declares by itself in the operational stage:
// once its own MaxRecvDataSegmentLength.
func (n *Negotiation) Declare() []Pair {
	if n.declaredOwn {
		return nil
	}
	n.declaredOwn = true
	return []Pair{{keyMaxRecvDataSegmentLength, fmt.Sprint(n.settings.MaxRecvDataSegmentLength)}}
}

// SendTargets returns, and forgets, the question of the last text.
func (n *Negotiation) SendTargets() (string, bool) {
	if n.sendTargets == nil {
		return "", false
	}
	v := *n.sendTargets
	n.sendTargets = nil
	return v, true
}

// Parameters are what is agreed so far. A login may go on to the full feature
// phase only without error.
func (n *Negotiation) Parameters() (Parameters, error) {
	p := n.agreed
	if !n.declaredOwn { // the initiator holds us to the default then
		p.MaxRecvDataSegmentLength = DefaultDataSegment
	}
	// An initiator that lowers MaxBurstLength only leaves FirstBurstLength at a
	// default above it, which RFC 7143 13.14 forbids.
	p.FirstBurstLength = min(p.FirstBurstLength, p.MaxBurstLength)
	if n.settings.RequireHeaderDigest && p.HeaderDigest == DigestNone {
		return p, fmt.Errorf("iscsi: %w: %s", ErrNoDigest, keyHeaderDigest)
	}
	if n.settings.RequireDataDigest && p.DataDigest == DigestNone {
		return p, fmt.Errorf("iscsi: %w: %s", ErrNoDigest, keyDataDigest)
	}
	return p, nil
}
