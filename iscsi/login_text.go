package iscsi

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// receiveText takes one whole text of the current stage and returns the answers.
func (l *Login) receiveText(pairs []Pair) ([]Pair, error) {
	if l.negotiation == nil {
		l.negotiation = NewNegotiation(l.options.Settings, l.first.TSIH == 0)
	}
	security, others := splitSecurity(pairs)
	phase := PhaseSecurity
	if l.stage == StageOperational {
		phase = PhaseOperational
	}
	answers, err := l.negotiation.Receive(phase, others)
	if err != nil {
		return nil, err
	}
	if !l.identified {
		if err := l.identify(); err != nil {
			return nil, err
		}
	}
	authAnswers, err := l.authenticate(security)
	if err != nil {
		return nil, err
	}
	return slices.Concat(l.tell(), authAnswers, answers), nil
}

// splitSecurity takes out what is about authentication. The keys of methods we
// do not offer are left to the negotiation, which does not understand them.
func splitSecurity(pairs []Pair) (security, others []Pair) {
	for _, p := range pairs {
		if p.Key == keyAuthMethod || strings.HasPrefix(p.Key, "CHAP_") {
			security = append(security, p)
		} else {
			others = append(others, p)
		}
	}
	return security, others
}

// identify asks the policy about the names of the first text, where RFC 7143
// 6.3 wants them.
func (l *Login) identify() error {
	n, policy := &l.negotiation.names, l.options.Policy
	if n.initiator == "" {
		return refuse(StatusMissingParameter, "no %s in the first text", keyInitiatorName)
	}
	if n.discovery && l.first.TSIH != 0 {
		return refuse(StatusCannotInclude, "a discovery session has one connection")
	}
	target := ""
	if !n.discovery {
		if !n.hasTarget {
			return refuse(StatusMissingParameter, "no %s for a normal session", keyTargetName)
		}
		target = n.target
		var err error
		if l.target, err = policy.Target(target); err != nil {
			return fmt.Errorf("target %q: %w", clip(target), err)
		}
	}
	if err := policy.Allow(n.initiator, target); err != nil {
		return fmt.Errorf("initiator %s: %w", n.initiator, err)
	}
	access, err := policy.CHAP(n.initiator, target)
	if err != nil {
		return fmt.Errorf("initiator %s: %w", n.initiator, err)
	}
	if access != nil {
		l.chap = &chapServer{access: *access, random: l.options.Random}
	}
	l.identified, l.negotiation.namesFixed = true, true
	return nil
}

// authenticate takes the security keys of one text.
func (l *Login) authenticate(pairs []Pair) ([]Pair, error) {
	required := l.chap != nil && !l.chap.done
	if l.stage != StageSecurity {
		switch {
		case required:
			return nil, refuse(StatusAuthFailed, "initiator skips authentication")
		case len(pairs) > 0:
			return nil, fmt.Errorf("%s: %w", pairs[0].Key, ErrWrongPhase)
		}
		return nil, nil
	}
	if offer, ok := lookup(pairs, keyAuthMethod); ok {
		return l.agreeMethod(offer, pairs)
	}
	switch {
	case len(pairs) > 0 && (l.chap == nil || !l.authAgreed):
		return nil, fmt.Errorf("%w: %s before %s=CHAP was agreed", ErrCHAPProtocol, pairs[0].Key, keyAuthMethod)
	case len(pairs) > 0:
		return l.chap.receive(pairs)
	case required && !l.authAgreed:
		return nil, refuse(StatusAuthFailed, "initiator offers no %s, CHAP is required", keyAuthMethod)
	case required:
		return nil, fmt.Errorf("%w: nothing in the text", ErrCHAPProtocol)
	}
	return nil, nil
}

// agreeMethod answers AuthMethod. What is required decides, not the order of
// the offer.
func (l *Login) agreeMethod(offer string, pairs []Pair) ([]Pair, error) {
	if l.authAgreed {
		return nil, fmt.Errorf("%s: %w", keyAuthMethod, ErrRenegotiated)
	}
	if len(pairs) > 1 {
		return nil, fmt.Errorf("%w: CHAP starts before it is agreed", ErrCHAPProtocol)
	}
	list, err := ParseList(offer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyAuthMethod, err)
	}
	method := ValueNone
	if l.chap != nil {
		method = "CHAP"
	}
	if !slices.Contains(list, method) {
		return nil, refuse(StatusAuthFailed, "initiator offers %s=%s, the target takes %s", keyAuthMethod, clip(offer), method)
	}
	l.authAgreed = true
	return []Pair{{keyAuthMethod, method}}, nil
}

// tell returns what the target says unasked: the portal group in its first
// response (RFC 7143 13.9), and its segment length in the operational stage.
func (l *Login) tell() []Pair {
	var pairs []Pair
	if !l.told && !l.negotiation.names.discovery {
		pairs = append(pairs, Pair{keyTargetPortalGroupTag, strconv.Itoa(int(l.target.PortalGroup))})
		if l.target.Alias != "" {
			pairs = append(pairs, Pair{keyTargetAlias, l.target.Alias})
		}
	}
	l.told = true
	if l.stage == StageOperational {
		pairs = append(pairs, l.negotiation.Declare()...)
	}
	return pairs
}

func redirect(err error) *Redirect {
	var moved *Redirect
	errors.As(err, &moved)
	return moved
}
