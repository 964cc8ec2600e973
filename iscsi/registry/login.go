package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// Discovery stands for discovery sessions where the login of a target could be
// changed. No target has such a name.
const Discovery = "discovery"

// editLogin changes what has to be proved to a target, or for Discovery.
func (r *Registry) editLogin(ctx context.Context, of string, fn func(*Login) error) (Login, error) {
	var login Login
	if of == Discovery {
		err := r.editRecord(ctx, discoveryKey, func(data []byte, exists bool) (_ []byte, err error) {
			login = Login{}
			if exists {
				if login, err = decodeDiscovery(data); err != nil {
					return nil, err
				}
			}
			if err := fn(&login); err != nil {
				return nil, err
			}
			return login.encode()
		})
		return login, err
	}
	_, err := r.edit(ctx, of, func(t *Target) error {
		login = Login{Users: t.Users, Mutual: t.Mutual}
		if err := fn(&login); err != nil {
			return err
		}
		t.Users, t.Mutual = login.Users, login.Mutual
		return nil
	})
	return login, err
}

// SetUser lets initiators prove themselves with c to a target, or for Discovery.
// From the first user on every initiator must. It replaces the user of that name.
func (r *Registry) SetUser(ctx context.Context, of string, c Credential) (Login, error) {
	if err := c.check(); err != nil {
		return Login{}, err
	}
	login, err := r.editLogin(ctx, of, func(l *Login) error {
		i, found := l.find(c.Name)
		if found {
			l.Users[i] = c
		} else {
			l.Users = slices.Insert(l.Users, i, c)
		}
		return nil
	})
	r.note(err, "CHAP user set", "target", of, "user", c.Name)
	return login, err
}

func (l *Login) find(user string) (int, bool) {
	return slices.BinarySearchFunc(l.Users, user, func(c Credential, name string) int { return strings.Compare(c.Name, name) })
}

// RemoveUser forgets a user. Without the last one no proof is asked for any more.
// ErrNotFound.
func (r *Registry) RemoveUser(ctx context.Context, of, user string) (Login, error) {
	login, err := r.editLogin(ctx, of, func(l *Login) error {
		i, found := l.find(user)
		if !found {
			return fmt.Errorf("%w: no user %q", backend.ErrNotFound, user)
		}
		l.Users = slices.Delete(l.Users, i, i+1)
		return nil
	})
	r.note(err, "CHAP user removed", "target", of, "user", user)
	return login, err
}

// SetMutual is what a target, or Discovery, proves itself with to initiators that
// ask. Its secret must differ from every user's.
func (r *Registry) SetMutual(ctx context.Context, of string, c Credential) (Login, error) {
	if err := c.check(); err != nil {
		return Login{}, err
	}
	login, err := r.editLogin(ctx, of, func(l *Login) error {
		l.Mutual = &c
		return nil
	})
	r.note(err, "mutual CHAP set", "target", of, "user", c.Name)
	return login, err
}

// ClearMutual forgets it. ErrNotFound.
func (r *Registry) ClearMutual(ctx context.Context, of string) (Login, error) {
	login, err := r.editLogin(ctx, of, func(l *Login) error {
		if l.Mutual == nil {
			return fmt.Errorf("%w: there is no secret for the other direction", backend.ErrNotFound)
		}
		l.Mutual = nil
		return nil
	})
	r.note(err, "mutual CHAP removed", "target", of)
	return login, err
}
