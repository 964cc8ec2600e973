package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

// completionTimeout bounds how long the Tab key may take to ask a gateway for
// names.
const completionTimeout = time.Second

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the shell's completion script",
		ArgsUsage: "bash|zsh|fish",
		Description: `Load it in the running shell, or keep it where the shell looks:
   source <(curve-nbd completion bash)
   curve-nbd completion bash > /etc/bash_completion.d/curve-nbd
   curve-nbd completion zsh > "${fpath[1]}/_curve-nbd"
   curve-nbd completion fish > ~/.config/fish/completions/curve-nbd.fish`,
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "bash|zsh|fish")
			if err != nil {
				return err
			}
			script, err := completionScript(ctx.App, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(ctx.App.Writer, script)
			return err
		},
		BashComplete: func(ctx *cli.Context) {
			fmt.Fprint(ctx.App.Writer, "bash\nzsh\nfish\n")
		},
	}
}

func completionScript(app *cli.App, shell string) (string, error) {
	switch shell {
	case "bash":
		return bashCompletion, nil
	case "zsh":
		return zshCompletion, nil
	case "fish":
		return app.ToFishCompletion()
	}
	return "", usagef("shell %q: use bash, zsh or fish", shell)
}

// Both scripts run the words so far with completionFlag and offer what it
// prints: commands, flags or names. bash takes a name apart at its colons, puts
// only the last part in, and calls the colons words.
const bashCompletion = `# bash completion for curve-nbd
_curve_nbd() {
  local -a words=()
  local word joined=
  for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    if [[ ${#words[@]} -gt 0 && ( -n $joined || $word == : ) ]]; then
      words[-1]+=$word
    else
      words+=("$word")
    fi
    joined=
    [[ $word == : ]] && joined=yes
  done
  local current=${words[-1]}
  local -a request=("${words[@]:0:${#words[@]}-1}")
  [[ $current == -* ]] && request+=("$current")
  local answers
  answers=$("${request[@]}" ` + completionFlag + ` 2>/dev/null)
  mapfile -t COMPREPLY < <(compgen -W "$answers" -- "$current")
  COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
}
complete -o bashdefault -o default -F _curve_nbd curve-nbd
`

const zshCompletion = `#compdef curve-nbd
_curve_nbd() {
  local current=${words[CURRENT]}
  local -a request=("${(@)words[1,CURRENT-1]}")
  [[ $current == -* ]] && request+=("$current")
  local -a answers=("${(@f)$("${request[@]}" ` + completionFlag + ` 2>/dev/null)}")
  if [[ -n ${answers[1]} ]]; then
    _describe curve-nbd answers
  else
    _files
  fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _curve_nbd "$@"
else
  compdef _curve_nbd curve-nbd
fi
`

// completeVolumes offers the names of volumes, and nothing when no gateway
// answers.
func completeVolumes(ctx *cli.Context) {
	completeFrom(ctx, func(deadline context.Context, gw *control.Client) (names []string) {
		vs, err := gw.Volumes(deadline, "")
		if err != nil {
			return nil
		}
		for _, v := range vs {
			names = append(names, v.Name)
		}
		return names
	})
}

// completeFrom offers what a gateway answers, and nothing when none does.
func completeFrom(ctx *cli.Context, ask func(context.Context, *control.Client) []string) {
	deadline, cancel := context.WithTimeout(ctx.Context, completionTimeout)
	defer cancel()
	gw, err := control.Dial(deadline, ctx.String("control"))
	if err != nil {
		return
	}
	defer gw.Close()
	if names := ask(deadline, gw); len(names) > 0 {
		fmt.Fprintln(ctx.App.Writer, strings.Join(names, "\n"))
	}
}
