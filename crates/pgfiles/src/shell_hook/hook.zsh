# pgfiles: re-enter the directory after `pgfiles mount .` and `pgfiles unmount .`   (in ~/.zshrc: eval "$(pgfiles shell-hook zsh)")
function pgfiles {
    emulate -L zsh
    if (( ! ${argv[(Ie)mount]} && ! ${argv[(Ie)unmount]} )); then
        command pgfiles "$@"
        return
    fi
    PGFILES_SHELL_HOOK=zsh command pgfiles "$@" || return
    if ! [[ . -ef $PWD ]]; then
        local pgfiles_here=$PWD
        if [[ -x $pgfiles_here ]]; then
            # By way of the directory before, so that `cd -` still leads there.
            [[ -x $OLDPWD ]] && builtin cd -q -- "$OLDPWD"
            builtin cd -q -- "$pgfiles_here"
        else
            print -u2 -r -- "pgfiles: $PWD is not there any more: cd to where you want to be"
        fi
    fi
    return 0
}
