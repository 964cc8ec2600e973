package iscsi

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// Logins as initiators in the field hold them. Those of libiscsi are recorded
// bytes of iscsi-ls and iscsi-inq 1.19; the others are not recorded but made
// like those of Linux open-iscsi, Windows and ESXi: their keys, ISID formats
// and task tags.

// exchange is one login request and what must come back.
type exchange struct {
	header string // BHS in hexadecimal; its data length is set to that of text
	text   string // pairs with a zero byte behind each
	want   string // the same of the answer
	flags  byte   // T, C, CSG and NSG of the answer
}

const (
	libiscsiOperational = "HeaderDigest=None,CRC32C\x00DataDigest=None\x00InitialR2T=No\x00ImmediateData=Yes\x00MaxBurstLength=262144\x00" +
		"FirstBurstLength=262144\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00MaxOutstandingR2T=1\x00ErrorRecoveryLevel=0\x00IFMarker=No\x00" +
		"OFMarker=No\x00MaxConnections=1\x00MaxRecvDataSegmentLength=262144\x00DataPDUInOrder=Yes\x00DataSequenceInOrder=Yes\x00"
	libiscsiAnswer = "HeaderDigest=None\x00DataDigest=None\x00InitialR2T=No\x00ImmediateData=Yes\x00MaxBurstLength=262144\x00" +
		"FirstBurstLength=262144\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00MaxOutstandingR2T=1\x00ErrorRecoveryLevel=0\x00IFMarker=No\x00" +
		"OFMarker=No\x00MaxConnections=1\x00DataPDUInOrder=Yes\x00DataSequenceInOrder=Yes\x00"
	ourSegment = "MaxRecvDataSegmentLength=262144\x00"
	ourTarget  = "TargetPortalGroupTag=1\x00TargetAlias=disk\x00"
)

var conversations = []struct {
	name      string
	exchanges []exchange
	check     func(*testing.T, *LoginResult)
}{
	{"libiscsi, discovery", []exchange{{
		"438700000000018b80f4c841000000000883d339000000005131b2ca0000000100000000000000000000000000000000",
		"InitiatorName=iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-ls\x00SessionType=Discovery\x00" + strings.Replace(libiscsiOperational, "None,CRC32C", "None", 1),
		ourSegment + "HeaderDigest=None\x00DataDigest=None\x00InitialR2T=Irrelevant\x00ImmediateData=Irrelevant\x00MaxBurstLength=Irrelevant\x00" +
			"FirstBurstLength=Irrelevant\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00MaxOutstandingR2T=Irrelevant\x00ErrorRecoveryLevel=0\x00IFMarker=No\x00" +
			"OFMarker=No\x00MaxConnections=Irrelevant\x00DataPDUInOrder=Irrelevant\x00DataSequenceInOrder=Irrelevant\x00",
		0x87,
	}}, func(t *testing.T, r *LoginResult) {
		if !r.Discovery || r.CmdSN != 0x5131b2ca || r.StatSN != 2 {
			t.Errorf("result %+v", r)
		}
	}},
	{"libiscsi, normal, as in QEMU", []exchange{{
		"43870000000001b880d316f300000000470b0985000000007481e2870000000100000000000000000000000000000000",
		"InitiatorName=iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-inq\x00TargetName=" + targetName + "\x00SessionType=Normal\x00" + libiscsiOperational,
		ourTarget + ourSegment + libiscsiAnswer,
		0x87,
	}}, func(t *testing.T, r *LoginResult) {
		if r.Parameters.InitialR2T || r.Parameters.FirstBurstLength != 262144 || r.Parameters.MaxSendDataSegmentLength != 262144 {
			t.Errorf("agreed %+v", r.Parameters)
		}
	}},
	{"open-iscsi, normal", []exchange{{
		"43810000000000000002 3d000000 0000 00000000 00000000 00000001 00000000 00000000000000000000000000000000",
		"InitiatorName=" + initiatorName + "\x00InitiatorAlias=host\x00TargetName=" + targetName + "\x00SessionType=Normal\x00AuthMethod=None\x00",
		ourTarget + "AuthMethod=None\x00",
		0x81,
	}, {
		"43870000000000000002 3d000000 0000 00000000 00000000 00000001 00000001 00000000000000000000000000000000",
		"HeaderDigest=None\x00DataDigest=None\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00IFMarker=No\x00OFMarker=No\x00ErrorRecoveryLevel=0\x00" +
			"InitialR2T=No\x00ImmediateData=Yes\x00MaxBurstLength=16776192\x00FirstBurstLength=262144\x00MaxOutstandingR2T=1\x00MaxConnections=1\x00" +
			"DataPDUInOrder=Yes\x00DataSequenceInOrder=Yes\x00MaxRecvDataSegmentLength=262144\x00",
		ourSegment + "HeaderDigest=None\x00DataDigest=None\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00IFMarker=No\x00OFMarker=No\x00ErrorRecoveryLevel=0\x00" +
			"InitialR2T=No\x00ImmediateData=Yes\x00MaxBurstLength=1048576\x00FirstBurstLength=262144\x00MaxOutstandingR2T=1\x00MaxConnections=1\x00" +
			"DataPDUInOrder=Yes\x00DataSequenceInOrder=Yes\x00",
		0x87,
	}}, func(t *testing.T, r *LoginResult) {
		if r.InitiatorAlias != "host" || r.ISID.String() != "00023d000000" || r.Parameters.MaxBurstLength != 1<<20 {
			t.Errorf("result %+v", r)
		}
	}},
	{"open-iscsi, discovery", []exchange{{
		"43810000000000000002 3d000000 0000 00000000 00000000 00000001 00000000 00000000000000000000000000000000",
		"InitiatorName=" + initiatorName + "\x00InitiatorAlias=host\x00SessionType=Discovery\x00AuthMethod=None\x00",
		"AuthMethod=None\x00",
		0x81,
	}, {
		"43870000000000000002 3d000000 0000 00000000 00000000 00000001 00000001 00000000000000000000000000000000",
		"HeaderDigest=None\x00DataDigest=None\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00IFMarker=No\x00OFMarker=No\x00ErrorRecoveryLevel=0\x00MaxRecvDataSegmentLength=32768\x00",
		ourSegment + "HeaderDigest=None\x00DataDigest=None\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00IFMarker=No\x00OFMarker=No\x00ErrorRecoveryLevel=0\x00",
		0x87,
	}}, func(t *testing.T, r *LoginResult) {
		if !r.Discovery || r.Parameters.MaxSendDataSegmentLength != 32768 {
			t.Errorf("result %+v", r)
		}
	}},
	{"Windows, normal", []exchange{{
		"43810000000000004000 01370000 0000 00000001 00010000 00000001 00000000 00000000000000000000000000000000",
		"InitiatorName=iqn.1991-05.com.microsoft:WIN-HOST\x00SessionType=Normal\x00InitiatorAlias=WIN-HOST\x00TargetName=" + targetName + "\x00AuthMethod=None\x00",
		ourTarget + "AuthMethod=None\x00",
		0x81,
	}, {
		"43870000000000004000 01370000 0000 00000001 00010000 00000001 00000001 00000000000000000000000000000000",
		"HeaderDigest=None,CRC32C\x00DataDigest=None,CRC32C\x00MaxRecvDataSegmentLength=65536\x00MaxConnections=32\x00InitialR2T=No\x00ImmediateData=Yes\x00" +
			"MaxBurstLength=262144\x00FirstBurstLength=65536\x00DefaultTime2Wait=0\x00DefaultTime2Retain=60\x00MaxOutstandingR2T=16\x00DataPDUInOrder=Yes\x00" +
			"DataSequenceInOrder=Yes\x00ErrorRecoveryLevel=2\x00",
		ourSegment + "HeaderDigest=None\x00DataDigest=None\x00MaxConnections=1\x00InitialR2T=No\x00ImmediateData=Yes\x00" +
			"MaxBurstLength=262144\x00FirstBurstLength=65536\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00MaxOutstandingR2T=1\x00DataPDUInOrder=Yes\x00" +
			"DataSequenceInOrder=Yes\x00ErrorRecoveryLevel=0\x00",
		0x87,
	}}, func(t *testing.T, r *LoginResult) {
		if r.Initiator != "iqn.1991-05.com.microsoft:win-host" || r.CID != 1 || r.ISID.Format() != ISIDEN {
			t.Errorf("result %+v", r)
		}
	}},
	{"ESXi, normal", []exchange{{
		"43810000000000000002 3d010000 0000 00000005 00000000 00000010 00000000 00000000000000000000000000000000",
		"InitiatorName=iqn.1998-01.com.vmware:esx-1a2b3c4d\x00SessionType=Normal\x00TargetName=" + targetName + "\x00AuthMethod=None,CHAP\x00",
		ourTarget + "AuthMethod=None\x00",
		0x81,
	}, {
		"43870000000000000002 3d010000 0000 00000005 00000000 00000010 00000001 00000000000000000000000000000000",
		"HeaderDigest=None,CRC32C\x00DataDigest=None,CRC32C\x00DefaultTime2Wait=0\x00DefaultTime2Retain=0\x00ErrorRecoveryLevel=0\x00InitialR2T=No\x00ImmediateData=Yes\x00" +
			"MaxBurstLength=262144\x00FirstBurstLength=262144\x00MaxOutstandingR2T=1\x00MaxConnections=1\x00DataPDUInOrder=Yes\x00DataSequenceInOrder=Yes\x00" +
			"MaxRecvDataSegmentLength=131072\x00TaskReporting=RFC3720,FastAbort\x00",
		ourSegment + "HeaderDigest=None\x00DataDigest=None\x00DefaultTime2Wait=2\x00DefaultTime2Retain=0\x00ErrorRecoveryLevel=0\x00InitialR2T=No\x00ImmediateData=Yes\x00" +
			"MaxBurstLength=262144\x00FirstBurstLength=262144\x00MaxOutstandingR2T=1\x00MaxConnections=1\x00DataPDUInOrder=Yes\x00DataSequenceInOrder=Yes\x00" +
			"TaskReporting=RFC3720\x00",
		0x87,
	}}, func(t *testing.T, r *LoginResult) {
		if r.Parameters.MaxSendDataSegmentLength != 131072 || r.CmdSN != 0x10 {
			t.Errorf("result %+v", r)
		}
	}},
}

// request is the PDU of an exchange.
func (e exchange) request(t testing.TB) *BHS {
	b := bhs(t, e.header)
	b.putDataLength(len(e.text))
	return b
}

func TestLoginConversations(t *testing.T) {
	for _, c := range conversations {
		t.Run(c.name, func(t *testing.T) {
			login := testLogin(&policy{tsih: 7})
			var step LoginStep
			for i, e := range c.exchanges {
				b := e.request(t)
				if err := b.Check(LoginLimits); err != nil {
					t.Fatal(err)
				}
				var r LoginRequest
				if err := r.Decode(b); err != nil {
					t.Fatal(err)
				}
				step = login.Receive(&r, []byte(e.text))
				checkStep(t, &r, step)
				var answer BHS
				step.Response.Encode(&answer)
				if string(step.Text) != e.want || answer[1] != e.flags || answer[0] != byte(OpLoginResponse) {
					t.Fatalf("request %d answered with flags %#x, %v\n%q, want\n%q", i, answer[1], step.Err, step.Text, e.want)
				}
			}
			if step.Outcome != LoginDone || step.Result.TSIH != 7 {
				t.Fatalf("outcome %d, %+v", step.Outcome, step.Result)
			}
			c.check(t, step.Result)
		})
	}
}

// A recorded mutual CHAP login of libiscsi: with the identifiers and challenge
// of the recording the responses have to be those of the recording.
func TestLoginConversationMutualCHAP(t *testing.T) {
	challenge, err := hex.DecodeString("71bcff3eb81e3f6323e63cd875107c81")
	if err != nil {
		t.Fatal(err)
	}
	login := testLogin(chapPolicy())
	login.options.Random = bytes.NewReader(append([]byte{164}, challenge...))
	var last LoginStep
	for i, e := range []exchange{{
		"4381000000000091801739df0000000059c7925f00000000377d74220000000100000000000000000000000000000000",
		"InitiatorName=iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-inq\x00TargetName=" + targetName + "\x00SessionType=Normal\x00AuthMethod=CHAP,None\x00",
		ourTarget + "AuthMethod=CHAP\x00",
		0x00,
	}, {
		"4301000000000009801739df0000000059c7925f00000000377d74220000000200000000000000000000000000000000",
		"CHAP_A=5\x00",
		"CHAP_A=5\x00CHAP_I=164\x00CHAP_C=0x71bcff3eb81e3f6323e63cd875107c81\x00",
		0x00,
	}, {
		"438100000000008a801739df0000000059c7925f00000000377d74220000000300000000000000000000000000000000",
		"CHAP_N=alice\x00CHAP_R=0xDF29C8F16587BCF304BA460965199273\x00CHAP_I=1\x00CHAP_C=0x43F060456E82FDAEFFF1F1EB21828A3B65865E708B30522553BF38B29F98D4E2\x00",
		"CHAP_N=target\x00CHAP_R=0x4ef67373b253903eaf680b8984044315\x00",
		0x81,
	}, {
		"438700000000013c801739df0000000059c7925f00000000377d74220000000400000000000000000000000000000000",
		libiscsiOperational,
		ourSegment + libiscsiAnswer,
		0x87,
	}} {
		var r LoginRequest
		if err := r.Decode(e.request(t)); err != nil {
			t.Fatal(err)
		}
		last = login.Receive(&r, []byte(e.text))
		checkStep(t, &r, last)
		var answer BHS
		last.Response.Encode(&answer)
		if string(last.Text) != e.want || answer[1] != e.flags {
			t.Fatalf("request %d answered with flags %#x, %v\n%q, want\n%q", i, answer[1], last.Err, last.Text, e.want)
		}
	}
	if last.Outcome != LoginDone || last.Result.CHAPName != "alice" {
		t.Errorf("outcome %d, %+v", last.Outcome, last.Result)
	}
}
