package iscsi

import (
	"errors"
	"strings"
	"testing"
)

func TestLoginRefusesHeaders(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*LoginRequest) // of the second request, from security to operational
		want   LoginStatus
	}{
		{"version", func(r *LoginRequest) { r.VersionMin, r.VersionMax = 1, 2 }, StatusUnsupportedVersion},
		{"ISID changes", func(r *LoginRequest) { r.ISID[5]++ }, StatusInitiatorError},
		{"TSIH changes", func(r *LoginRequest) { r.TSIH++ }, StatusInitiatorError},
		{"CID changes", func(r *LoginRequest) { r.CID++ }, StatusInitiatorError},
		{"task tag changes", func(r *LoginRequest) { r.InitiatorTaskTag++ }, StatusInitiatorError},
		{"CmdSN changes", func(r *LoginRequest) { r.CmdSN++ }, StatusInitiatorError},
		{"acknowledges what was not sent", func(r *LoginRequest) { r.ExpStatSN++ }, StatusInitiatorError},
		{"stage that we are not in", func(r *LoginRequest) { r.Current, r.Next = StageOperational, StageFullFeature }, StatusInvalidDuringLogin},
		{"reserved stage", func(r *LoginRequest) { r.Current = 2 }, StatusInvalidDuringLogin},
		{"full feature phase", func(r *LoginRequest) { r.Current = StageFullFeature }, StatusInvalidDuringLogin},
		{"step to the reserved stage", func(r *LoginRequest) { r.Next = 2 }, StatusInitiatorError},
		{"step to the same stage", func(r *LoginRequest) { r.Next = StageSecurity }, StatusInitiatorError},
		{"T and C", func(r *LoginRequest) { r.Continue = true }, StatusInitiatorError},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &policy{tsih: 7}
			f := startFlow(t, p)
			f.send(StageSecurity, StageSecurity, firstKeys)
			r := f.req
			r.Transit, r.Next = true, StageOperational
			c.change(&r)
			s := f.login.Receive(&r, nil)
			checkStep(t, &r, s)
			if s.Response.Status != c.want || s.Outcome != LoginFailed || len(p.opened) > 0 {
				t.Errorf("status %v, want %v: %v", s.Response.Status, c.want, s.Err)
			}
		})
	}
}

func TestLoginRefusesVersionInTheFirstRequest(t *testing.T) {
	f := startFlow(t, &policy{tsih: 7})
	f.req.VersionMin, f.req.VersionMax = 1, 1
	if s := f.send(StageSecurity, StageOperational, firstKeys); s.Response.Status != StatusUnsupportedVersion || s.Response.VersionMax != Version {
		t.Errorf("answered %+v", s.Response)
	}
}

func TestLoginRefusesText(t *testing.T) {
	name, target := "InitiatorName="+initiatorName, " TargetName="+targetName
	for _, c := range []struct {
		name  string
		stage Stage
		texts []string
		want  LoginStatus
	}{
		{"no initiator", StageSecurity, []string{"SessionType=Normal" + target}, StatusMissingParameter},
		{"nothing at all", StageSecurity, []string{""}, StatusMissingParameter},
		{"no target", StageSecurity, []string{name}, StatusMissingParameter},
		{"names in the second text", StageSecurity, []string{"AuthMethod=None", name + target}, StatusMissingParameter},
		{"bad initiator", StageSecurity, []string{"InitiatorName=me" + target}, StatusInitiatorError},
		{"bad target is not found", StageSecurity, []string{name + " TargetName=disk"}, StatusNotFound},
		{"session type", StageSecurity, []string{name + target + " SessionType=Boot"}, StatusSessionType},
		{"discovery turned normal", StageSecurity, []string{discoveryKeys, "SessionType=Normal"}, StatusInvalidDuringLogin},
		{"normal turned discovery", StageSecurity, []string{name + target, "SessionType=Discovery"}, StatusInvalidDuringLogin},
		{"another target once the first was allowed", StageSecurity, []string{discoveryKeys, "TargetName=" + targetName}, StatusInvalidDuringLogin},
		{"key twice", StageSecurity, []string{name + target + " " + name}, StatusInitiatorError},
		{"key not ended", StageSecurity, []string{"raw:InitiatorName=x"}, StatusInitiatorError},
		{"SendTargets", StageOperational, []string{name + target + " SendTargets=All"}, StatusInvalidDuringLogin},
		{"AuthMethod in the operational stage", StageOperational, []string{name + target + " AuthMethod=None"}, StatusInvalidDuringLogin},
		{"burst in the security stage", StageSecurity, []string{name + target + " MaxBurstLength=512"}, StatusInvalidDuringLogin},
		{"AuthMethod twice", StageSecurity, []string{name + target + " AuthMethod=None", "AuthMethod=None"}, StatusInitiatorError},
		{"AuthMethod of nothing", StageSecurity, []string{name + target + " AuthMethod="}, StatusInitiatorError},
		{"only methods that are not configured", StageSecurity, []string{name + target + " AuthMethod=CHAP"}, StatusAuthFailed},
		{"CHAP that nobody agreed on", StageSecurity, []string{name + target + " CHAP_A=5"}, StatusAuthFailed},
		{"CHAP after None was agreed", StageSecurity, []string{name + target + " AuthMethod=None", "CHAP_A=5"}, StatusAuthFailed},
		{"key of the target", StageOperational, []string{name + target + " TargetAlias=x"}, StatusInitiatorError},
		{"segment of nothing", StageOperational, []string{name + target + " MaxRecvDataSegmentLength=0"}, StatusInitiatorError},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &policy{tsih: 7}
			f := startFlow(t, p)
			for i, text := range c.texts {
				if raw, ok := strings.CutPrefix(text, "raw:"); ok {
					f.raw(c.stage, c.stage, []byte(raw))
				} else {
					f.send(c.stage, c.stage, text)
				}
				if i < len(c.texts)-1 && f.last.Err != nil && c.want != StatusMissingParameter {
					t.Fatal(f.last.Err)
				}
				if f.last.Err != nil {
					break
				}
			}
			if f.last.Response.Status != c.want {
				t.Errorf("status %v, want %v: %v", f.last.Response.Status, c.want, f.last.Err)
			}
		})
	}
}

func TestLoginRequiredDigest(t *testing.T) {
	p := &policy{tsih: 7}
	f := startFlow(t, p)
	f.login.options.Settings.RequireDataDigest = true
	f.send(StageSecurity, StageOperational, firstKeys)
	if s := f.send(StageOperational, StageFullFeature, "DataDigest=None"); s.Response.Status != StatusInitiatorError || len(p.opened) > 0 {
		t.Errorf("status %v, %d sessions", s.Response.Status, len(p.opened))
	}
}

func TestLoginCHAP(t *testing.T) {
	mutual := " CHAP_I=9 CHAP_C=0x00112233445566778899aabbccddeeff"
	noMutual := chapPolicy()
	noMutual.chap.MutualSecret = Secret{}
	for _, c := range []struct {
		name   string
		policy *policy
		steps  func(*flow)
		want   LoginStatus
	}{
		{"one way", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageOperational, firstKeys)
			f.wantText("TargetPortalGroupTag=1 TargetAlias=disk AuthMethod=CHAP")
			if f.last.Response.Transit {
				f.t.Fatal("left the security stage before CHAP")
			}
			f.send(StageSecurity, StageSecurity, "CHAP_A=5")
			f.send(StageSecurity, StageOperational, f.respond(userSecret, ""))
			if !f.last.Response.Transit {
				f.t.Fatalf("did not leave the security stage: %v", f.last.Err)
			}
			f.send(StageOperational, StageFullFeature, "")
		}, StatusSuccess},
		{"mutual", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageSecurity, firstKeys)
			f.send(StageSecurity, StageSecurity, "CHAP_A=7,5")
			f.send(StageSecurity, StageFullFeature, f.respond(userSecret, mutual))
			if s := string(f.last.Text); !strings.HasPrefix(s, "CHAP_N=target\x00CHAP_R=0x") {
				f.t.Errorf("answered %q", s)
			}
		}, StatusSuccess},
		{"discovery too", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageSecurity, "InitiatorName="+initiatorName+" SessionType=Discovery AuthMethod=CHAP")
			f.send(StageSecurity, StageSecurity, "CHAP_A=5")
			f.send(StageSecurity, StageFullFeature, f.respond(userSecret, ""))
		}, StatusSuccess},
		{"wrong secret", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageSecurity, firstKeys)
			f.send(StageSecurity, StageSecurity, "CHAP_A=5")
			f.send(StageSecurity, StageOperational, f.respond(targetSecret, ""))
		}, StatusAuthFailed},
		{"mutual that is not configured", noMutual, func(f *flow) {
			f.send(StageSecurity, StageSecurity, firstKeys)
			f.send(StageSecurity, StageSecurity, "CHAP_A=5")
			f.send(StageSecurity, StageOperational, f.respond(userSecret, mutual))
		}, StatusAuthFailed},
		{"skips the security stage", chapPolicy(), func(f *flow) {
			f.send(StageOperational, StageFullFeature, strings.ReplaceAll(firstKeys, " AuthMethod=CHAP,None", ""))
		}, StatusAuthFailed},
		{"steps over it", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageFullFeature, strings.ReplaceAll(firstKeys, " AuthMethod=CHAP,None", ""))
		}, StatusAuthFailed},
		{"offers None only", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageOperational, strings.ReplaceAll(firstKeys, "CHAP,None", "None"))
		}, StatusAuthFailed},
		{"goes on to the operational stage unanswered", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageOperational, firstKeys)
			f.send(StageOperational, StageFullFeature, "")
		}, StatusInvalidDuringLogin},
		{"wants to leave after AuthMethod with an empty text", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageOperational, firstKeys)
			f.send(StageSecurity, StageFullFeature, "")
		}, StatusAuthFailed},
		{"wants to leave with the challenge open", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageOperational, firstKeys)
			f.send(StageSecurity, StageFullFeature, "CHAP_A=5")
			if f.last.Response.Transit {
				f.t.Fatal("left the security stage before the response")
			}
			f.send(StageSecurity, StageFullFeature, "CHAP_A=5")
		}, StatusAuthFailed},
		{"response before the challenge", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageSecurity, firstKeys)
			f.send(StageSecurity, StageSecurity, "CHAP_N=alice CHAP_R=0x00")
		}, StatusAuthFailed},
		{"CHAP_A together with AuthMethod", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageSecurity, firstKeys+" CHAP_A=5")
		}, StatusAuthFailed},
		{"no algorithm in common", chapPolicy(), func(f *flow) {
			f.send(StageSecurity, StageSecurity, firstKeys)
			f.send(StageSecurity, StageSecurity, "CHAP_A=6")
		}, StatusAuthFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startFlow(t, c.policy)
			c.steps(f)
			s := f.last
			if s.Response.Status != c.want {
				t.Fatalf("status %v, want %v: %v", s.Response.Status, c.want, s.Err)
			}
			if c.want == StatusSuccess {
				if s.Outcome != LoginDone || s.Result.CHAPName != "alice" || len(c.policy.opened) != 1 {
					t.Errorf("outcome %d, result %+v", s.Outcome, s.Result)
				}
			} else if len(c.policy.opened) != 0 {
				t.Error("a session was opened without authentication")
			}
			if s.Err != nil && (strings.Contains(s.Err.Error(), userSecret) || strings.Contains(s.Err.Error(), targetSecret)) {
				t.Errorf("the error gives a secret away: %v", s.Err)
			}
		})
	}
}

// A peer that never gets anywhere costs a bounded number of rounds and bytes.
func TestLoginIsBounded(t *testing.T) {
	t.Run("rounds", func(t *testing.T) {
		f := startFlow(t, &policy{tsih: 7})
		f.send(StageSecurity, StageSecurity, firstKeys)
		rounds := 1
		for ; f.last.Outcome == LoginGoesOn && rounds < 1000; rounds++ {
			f.send(StageSecurity, StageSecurity, "")
		}
		if f.last.Response.Status != StatusInitiatorError || rounds != defaultLoginRounds+1 {
			t.Errorf("after %d rounds: %v", rounds, f.last.Err)
		}
	})
	t.Run("one text", func(t *testing.T) {
		f := startFlow(t, &policy{tsih: 7})
		f.req.Continue = true
		for range 3 {
			if f.last.Outcome == LoginGoesOn {
				f.raw(StageSecurity, StageSecurity, make([]byte, 8192))
			}
		}
		if !errors.Is(f.last.Err, ErrTextTooLong) || f.last.Response.Status != StatusInitiatorError {
			t.Errorf("24 KiB of one text: %v", f.last.Err)
		}
	})
	t.Run("all texts", func(t *testing.T) {
		f := startFlow(t, &policy{tsih: 7})
		f.send(StageSecurity, StageSecurity, firstKeys)
		sent := 0
		for f.last.Outcome == LoginGoesOn && sent < 1<<20 {
			f.raw(StageSecurity, StageSecurity, make([]byte, 8192))
			sent += 8192
		}
		if !errors.Is(f.last.Err, ErrTextTooLong) || sent > defaultLoginBytes {
			t.Errorf("after %d bytes: %v", sent, f.last.Err)
		}
	})
}

func TestLoginErrorSaysStatusAndReason(t *testing.T) {
	f := startFlow(t, &policy{target: ErrTargetRemoved})
	f.send(StageSecurity, StageFullFeature, firstKeys)
	var e *LoginError
	if !errors.As(f.last.Err, &e) || !errors.Is(e, ErrTargetRemoved) ||
		e.Error() != `login refused, 0x0204 target removed: target "`+targetName+`": target was removed` {
		t.Errorf("got %v", f.last.Err)
	}
	if got := LoginStatus(0x0399).String(); got != "0x0399" {
		t.Errorf("unknown status is %q", got)
	}
}
