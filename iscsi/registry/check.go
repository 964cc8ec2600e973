package registry

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi"
)

// Bounds of one target. Its record has one too, backend.MaxRecordData.
const (
	MaxUnits  = 1024
	MaxAccess = 1024
	MaxUsers  = 256
	// MaxAlias and MaxUser are the longest text values that RFC 7143 has, 6.1.
	MaxAlias = 255
	MaxUser  = 255
	// MaxSecret is the longest that initiators can be told. The shortest is
	// iscsi.MinSecret: RFC 7143 12.1.3 wants 96 bits where there is no IPsec, and
	// Windows takes 12 to 16 bytes.
	MaxSecret = 255
)

// check reports, as backend.ErrInvalid, what a target must not be. It is asked
// before a target is stored and after it was read.
func (t *Target) check() error {
	if name, err := iscsi.ParseName(t.Name); err != nil || name != t.Name {
		return fmt.Errorf("%w: target name %q: %w", backend.ErrInvalid, t.Name, orNotLower(err))
	}
	if err := checkText("alias", t.Alias, MaxAlias); err != nil && t.Alias != "" {
		return err
	}
	if err := t.checkUnits(); err != nil {
		return err
	}
	if err := t.checkAccess(); err != nil {
		return err
	}
	return checkLogin(t.Users, t.Mutual)
}

var errNotLower = fmt.Errorf("%w: write it in lower case", iscsi.ErrName)

func orNotLower(err error) error {
	if err == nil {
		return errNotLower
	}
	return err
}

func (t *Target) checkUnits() error {
	if len(t.Units) > MaxUnits {
		return fmt.Errorf("%w: %d units: at most %d", backend.ErrInvalid, len(t.Units), MaxUnits)
	}
	volumes := make(map[backend.VolumeID]int, len(t.Units))
	last := -1
	for _, u := range t.Units {
		switch other, twice := volumes[u.ID]; {
		case u.Number < 0 || u.Number > iscsi.MaxLUN:
			return fmt.Errorf("%w: unit %d: use 0 to %d", backend.ErrInvalid, u.Number, iscsi.MaxLUN)
		case u.Number <= last:
			return fmt.Errorf("%w: unit %d after unit %d", backend.ErrInvalid, u.Number, last)
		case twice:
			return fmt.Errorf("%w: units %d and %d are the same volume %q", backend.ErrInvalid, other, u.Number, u.Volume)
		case u.PhysicalBlock != 512 && u.PhysicalBlock != DefaultPhysicalBlock:
			return fmt.Errorf("%w: unit %d with physical blocks of %d bytes: use 512 or %d", backend.ErrInvalid, u.Number, u.PhysicalBlock, DefaultPhysicalBlock)
		case u.ID == 0:
			return fmt.Errorf("%w: unit %d has no volume", backend.ErrInvalid, u.Number)
		}
		if err := checkText("volume", u.Volume, maxVolumeName); err != nil {
			return err
		}
		volumes[u.ID], last = u.Number, u.Number
	}
	return nil
}

// maxVolumeName bounds what is kept of a volume's name; what a good one is, the
// metadata have said before.
const maxVolumeName = 255

func (t *Target) checkAccess() error {
	if len(t.Access) > MaxAccess {
		return fmt.Errorf("%w: %d initiators: at most %d", backend.ErrInvalid, len(t.Access), MaxAccess)
	}
	seen := make(map[string]bool, len(t.Access))
	for _, a := range t.Access {
		name, err := parseInitiator(a.Initiator)
		switch {
		case err != nil:
			return err
		case name != a.Initiator:
			return fmt.Errorf("%w: initiator %q: %w", backend.ErrInvalid, a.Initiator, errNotLower)
		case seen[name]:
			return fmt.Errorf("%w: initiator %q twice", backend.ErrInvalid, name)
		case len(a.Units) > MaxUnits:
			return fmt.Errorf("%w: initiator %q with %d units: at most %d", backend.ErrInvalid, name, len(a.Units), MaxUnits)
		}
		seen[name] = true
		last := -1
		for _, n := range a.Units {
			if n <= last || n > iscsi.MaxLUN {
				return fmt.Errorf("%w: initiator %q with unit %d after %d: use ascending numbers up to %d", backend.ErrInvalid, name, n, last, iscsi.MaxLUN)
			}
			last = n
		}
	}
	return nil
}

// parseInitiator is iscsi.ParseName that knows AnyInitiator.
func parseInitiator(s string) (string, error) {
	if strings.EqualFold(s, AnyInitiator) {
		return AnyInitiator, nil
	}
	name, err := iscsi.ParseName(s)
	if err != nil {
		return "", fmt.Errorf("%w: initiator: %w; or %q", backend.ErrInvalid, err, AnyInitiator)
	}
	return name, nil
}

// checkLogin looks at what initiators, and the target, prove themselves with.
func checkLogin(users []Credential, mutual *Credential) error {
	if len(users) > MaxUsers {
		return fmt.Errorf("%w: %d users: at most %d", backend.ErrInvalid, len(users), MaxUsers)
	}
	for i, u := range users {
		if err := u.check(); err != nil {
			return err
		}
		if i > 0 && users[i-1].Name >= u.Name {
			return fmt.Errorf("%w: user %q after user %q", backend.ErrInvalid, u.Name, users[i-1].Name)
		}
	}
	if mutual == nil {
		return nil
	}
	if err := mutual.check(); err != nil {
		return err
	}
	if i := slices.IndexFunc(users, func(u Credential) bool { return u.Secret.Equal(mutual.Secret) }); i >= 0 {
		return fmt.Errorf("%w: user %q: %w", backend.ErrInvalid, users[i].Name, iscsi.ErrCHAPSame)
	}
	return nil
}

func (c Credential) check() error {
	if err := checkText("user", c.Name, MaxUser); err != nil {
		return err
	}
	if n := c.Secret.Len(); n < iscsi.MinSecret || n > MaxSecret {
		return fmt.Errorf("%w: the secret of user %q has %d bytes: give %d to %d (Windows takes 12 to 16)", backend.ErrInvalid, c.Name, n, iscsi.MinSecret, MaxSecret)
	}
	return nil
}

// checkText refuses what cannot be shown, or sent in a login.
func checkText(what, s string, most int) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: %s is empty", backend.ErrInvalid, what)
	case len(s) > most:
		return fmt.Errorf("%w: %s of %d bytes: at most %d", backend.ErrInvalid, what, len(s), most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%w: %s %q: use printable UTF-8", backend.ErrInvalid, what, s)
	}
	return nil
}
