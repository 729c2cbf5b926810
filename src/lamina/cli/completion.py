"""The scripts for shells. They are thin: what fits is decided by ``lamina __complete`` (verbs/complete.py).

``lamina __complete WORD ...`` gets the words after ``lamina`` up to the cursor, the last one perhaps empty, and prints
one candidate a line; the line ``:path`` asks the shell for file names instead.
"""

# Bash breaks words at ':', '=' and '@' (COMP_WORDBREAKS), which names and assignments hold: the words are put together
# again before the question, and what bash already has is cut off the answers.
_BASH = r"""# bash completion of lamina: lamina completion bash
_lamina() {
    local line="${COMP_LINE:0:COMP_POINT}" cut reply word IFS
    local -a words
    # Splitting the line at blanks keeps ':', '=' and '@' inside words.
    IFS=$' \t\n' read -r -a words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    COMPREPLY=()
    # What bash puts the answer in place of is only the part after the last break.
    local current="$2"
    cut=0
    [[ "$word" == *"$current" ]] && cut=$(( ${#word} - ${#current} ))
    while IFS= read -r reply; do
        if [[ "$reply" == ":path" ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -f -- "$current")
        elif [[ "$reply" == "$word"* ]]; then
            [[ "$reply" == *[/=,@] ]] && compopt -o nospace 2>/dev/null
            # A blank in a name must reach the command as part of the name.
            COMPREPLY+=("$(printf '%q' "${reply:cut}")")
        fi
    done < <(command lamina __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _lamina lamina
"""

_ZSH = r"""#compdef lamina
# zsh completion of lamina: lamina completion zsh
_lamina() {
    local -a candidates open
    local reply
    while IFS= read -r reply; do
        case "$reply" in
            :path) _files ;;
            *[/=,@]) open+=("$reply") ;;
            *) candidates+=("$reply") ;;
        esac
    done < <(command lamina __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#candidates )) && compadd -- $candidates
    (( $#open )) && compadd -S '' -- $open
}
if [[ "$funcstack[1]" == "_lamina" ]]; then
    _lamina "$@"
else
    compdef _lamina lamina
fi
"""

_FISH = r"""# fish completion of lamina: lamina completion fish
function __lamina_complete
    set -l words (commandline -opc) (commandline -ct)
    for reply in (command lamina __complete $words[2..-1] 2>/dev/null)
        if test "$reply" = ":path"
            __fish_complete_path (commandline -ct)
        else
            echo $reply
        end
    end
end
complete -c lamina -f -a '(__lamina_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""Shell to script."""
